"""The debug flags of `compile` and `opt`."""

from __future__ import annotations

from tests.cli.conftest import HOST, MODELS


def test_a_dump_has_the_trace_and_each_change(compile_small, tmp_path):
    assert compile_small("-o", "out", "--dump-ir").code == 0
    names = sorted(p.name for p in (tmp_path / "out/ir").iterdir())
    assert names == ["00-trace.ir", "00-trace.pt2", "02-double-negation.ir", "02-double-negation.pt2"]


def test_the_ir_after_a_pass_is_printed(compile_small):
    out = compile_small("-o", "out", "--print-ir-after", "double-negation").out
    assert out.count("return output=") == 1 and out.count("aten.neg") == 1


def test_the_ir_is_printed_at_first_and_after_each_change(compile_small):
    out = compile_small("-o", "out", "--print-ir-after-change").out
    assert out.count("return output=") == 2


def test_printed_ir_keeps_out_of_the_json_document(compile_small):
    result = compile_small("-o", "out", "--print-ir-after-change", "--json")
    assert result.document["artifact"] == "out" and result.err.count("return output=") == 2


def test_a_pass_that_changed_nothing_says_so(compile_small):
    assert "name-nothing changed nothing" in compile_small("-o", "out", "--print-ir-after", "name-nothing").err


def test_a_wrong_pass_that_structure_does_not_show_fails_at_the_artifact_with_its_ir_printed(compile_small, folder):
    flags = ("--insert", "legalize:forget-sign", "--verify", "structure", "--print-ir-after", "forget-sign")
    result = compile_small("-o", "out", *flags)
    assert result.code == 1 and "differs from the PyTorch model on torch host" in result.err
    assert "aten.neg" not in result.out and "return output=%relu" in result.out and folder() == []


def test_without_verification_the_dump_of_a_wrong_pass_is_kept(compile_small, tmp_path):
    assert compile_small("-o", "out", "--insert", "legalize:forget-sign", "--verify", "off", "--dump-ir").code == 0
    assert (tmp_path / "out/ir/03-forget-sign.ir").is_file()


def test_stop_after_lowers_nothing(compile_small, folder):
    result = compile_small("-o", "out", "--stop-after", "name-nothing")
    assert result.code == 0 and "stopped   after name-nothing: nothing was lowered" in result.out
    assert "double-negation" not in result.out and folder() == []


def test_stop_after_with_a_dump_writes_the_dump_alone(compile_small, tmp_path):
    flags = ("-o", "out", "--stop-after", "double-negation", "--dump-ir")
    assert compile_small(*flags).code == 0
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["ir"]
    assert compile_small(*flags).code == 6
    assert compile_small(*flags, "--overwrite").code == 0


def test_a_disabled_pass_does_not_run(compile_small):
    names = [p["name"] for p in compile_small("-o", "out", "--disable-pass", "double-negation", "--json").document["passes"]]
    assert names == ["name-nothing"]


def test_an_inserted_pass_runs_in_its_phase(compile_small):
    document = compile_small("-o", "out", "--insert", "normalize:double-negation{limit=0}", "--json").document
    assert [(p["phase"], p["spec"]) for p in document["passes"]] == [
        ("normalize", "name-nothing"),
        ("normalize", "double-negation{limit=0}"),
        ("fuse", "double-negation"),
    ]


def test_passes_replace_the_whole_pipeline(compile_small):
    assert compile_small("-o", "out", "--passes", "double-negation", "--json").document["pipeline"] == "double-negation"


def test_without_verification_the_artifact_is_written_and_marked(compile_small):
    result = compile_small("-o", "out", "--verify", "off", "--set", "target_options.error=0.5")
    assert result.code == 0 and "not verified" in result.out


def test_timing_adds_up(compile_small):
    result = compile_small("-o", "out", "--timing")
    assert [line.split()[0] for line in result.out.splitlines()[-6:]] == ["step", "load", "passes", "lower", "verify", "in"]


def test_a_loaded_file_that_fails_is_an_error_with_its_reason(edgecc, tmp_path):
    (tmp_path / "broken.py").write_text("1 / 0\n")
    result = edgecc("compile", f"{MODELS}:small", "--target", "torch_host", "--load", "broken.py")
    assert result.code == 2 and "--load broken.py: ZeroDivisionError" in result.err


def test_two_passes_of_one_name_are_an_error_that_names_both_files(edgecc, tmp_path):
    (tmp_path / "again.py").write_text((tmp_path / HOST).read_text())
    result = edgecc("passes", "--load", HOST, "--load", "again.py")
    assert result.code == 2 and HOST in result.err and "again.py" in result.err
