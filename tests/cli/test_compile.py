"""`edgecc compile`: the run directory, the summary, the JSON document, and every way to fail with its exit code."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from edgecc.ir import archive
from edgecc.recipe import read
from tests.cli.conftest import HOST, MODELS


def test_the_run_directory_holds_everything_that_is_promised(compile_small, tmp_path):
    assert compile_small("-o", "out").code == 0
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {"model.pt2", "manifest.json", "recipe.toml", "report.json", "remarks.jsonl", "reference"}
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["verify"]["runtime"] == "torch host" and report["verify"]["cases"] == 3


def test_the_summary_has_a_line_a_pass_and_says_what_ran(compile_small):
    result = compile_small("-o", "out")
    rows = [line.split() for line in result.out.splitlines()]
    assert ["fuse", "double-negation", "1"] in [row[:3] for row in rows]
    assert "verified  on torch host: 3 cases, equal bit for bit" in result.out
    assert "remarks   applied 1, missed 1: see out/remarks.jsonl" in result.out
    assert "written   out" in result.out


def test_json_is_one_document_with_the_keys_of_the_report(compile_small, tmp_path):
    result = compile_small("-o", "out", "--json")
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert {k: result.document[k] for k in ("passes", "verify", "size_bytes", "original")} == {
        k: report[k] for k in ("passes", "verify", "size_bytes", "original")
    }
    assert result.document["artifact"] == "out"
    assert result.document["remarks"] == {"applied": 1, "missed": 1, "note": 0}


def test_plain_progress_numbers_its_steps(compile_small):
    lines = compile_small("-o", "out").err.splitlines()
    assert [line.split("]")[0] for line in lines] == [f"[{i}/6" for i in range(1, 7)]
    assert "[4/6] fuse: double-negation" in lines


def test_quiet_says_nothing(compile_small):
    result = compile_small("-o", "out", "-q")
    assert (result.code, result.out, result.err) == (0, "", "")


def test_verbose_prints_the_remarks(compile_small):
    assert "double-negation: missed: neg_2: it negates once only (models.py:" in compile_small("-o", "out", "-v").err


def test_a_dry_run_checks_support_and_writes_nothing(compile_small, folder):
    result = compile_small("-o", "out", "--dry-run", "--dump-ir")
    assert result.code == 0 and "dry run   torch_host supports every operator" in result.out
    assert folder() == []


def test_a_dry_run_finds_an_unsupported_operator(edgecc, folder):
    result = edgecc("compile", f"{MODELS}:inverse", "--load", HOST, "--target", "torch_host", "--dry-run")
    assert result.code == 4 and folder() == []


def test_an_unsupported_operator_is_named_with_every_source_line(edgecc, folder):
    result = edgecc("compile", f"{MODELS}:inverse", "--load", HOST, "--target", "torch_host", "-o", "out", "--json")
    assert result.code == 4
    assert "aten.erfinv: there is no inverse error function" in result.document["error"]["message"]
    assert "models.py:" in result.document["error"]["message"]
    assert folder() == []


def test_a_missing_tool_exits_5_with_the_install_line(edgecc, folder):
    result = edgecc("compile", f"{MODELS}:small", "--load", HOST, "--target", "needy_host", "-o", "out")
    assert result.code == 5 and "needs unobtainium" in result.err and "  try: pip install unobtainium" in result.err
    assert folder() == []


def test_a_model_that_branches_on_values_exits_3_with_the_line(edgecc, folder):
    result = edgecc("compile", f"{MODELS}:branching", "--load", HOST, "--target", "torch_host", "-o", "out")
    assert result.code == 3 and "models.py:" in result.err and folder() == []


def test_a_model_that_ends_the_process_is_an_error(edgecc):
    result = edgecc("compile", f"{MODELS}:quitting", "--load", HOST, "--target", "torch_host")
    assert result.code == 2 and "edgecc: error:" in result.err


def test_an_existing_output_is_refused_before_anything_is_loaded(edgecc, tmp_path):
    (tmp_path / "out").mkdir()
    result = edgecc("compile", "no/such/model.pt2", "--target", "no-such-target", "-o", "out")
    assert result.code == 6
    assert result.err == "edgecc: error: out exists\n  try: --overwrite to replace it, or another -o\n"


def test_overwrite_replaces_a_run_directory(compile_small, tmp_path, folder):
    assert compile_small("-o", "out").code == 0
    first = (tmp_path / "out/manifest.json").read_bytes()
    (tmp_path / "out/stale").touch()
    assert compile_small("-o", "out", "--overwrite").code == 0
    assert (tmp_path / "out/manifest.json").read_bytes() == first
    assert not (tmp_path / "out/stale").exists() and folder() == ["out"]


def test_overwrite_does_not_replace_a_folder_that_is_no_run_directory(compile_small, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.txt").write_text("years of work")
    assert compile_small("-o", "out", "--overwrite").code == 6
    assert (tmp_path / "out/thesis.txt").read_text() == "years of work"


def test_the_output_has_a_default_name(compile_small, folder):
    assert compile_small().code == 0
    assert folder() == ["models-small-torch_host"]


def test_a_wrong_artifact_exits_1_and_leaves_nothing(compile_small, folder):
    result = compile_small("-o", "out", "--set", "target_options.error=0.5")
    assert result.code == 1 and "differs from the PyTorch model on torch host" in result.err
    assert folder() == []


def test_a_pass_that_breaks_its_promise_exits_1_and_is_named_with_the_node(compile_small, folder):
    result = compile_small("-o", "out", "--insert", "legalize:forget-sign")
    assert result.code == 1
    assert "pass 'forget-sign' promised" in result.err and "first node that differs" in result.err
    assert "  try: --disable-pass forget-sign" in result.err and folder() == []


def test_a_pass_that_fails_exits_70_with_a_reproducer(compile_small, folder, tmp_path):
    result = compile_small("-o", "out", "--insert", "legalize:fail", "--json")
    assert result.code == 70 and result.document["error"]["kind"] == "InternalError"
    (crash,) = folder()
    assert crash.startswith("edgecc-crash-") and result.document["error"]["reproducer"] == crash
    assert "ZeroDivisionError" in (tmp_path / crash / "traceback.txt").read_text()
    assert (tmp_path / crash / "command.txt").read_text().startswith("edgecc compile ")
    assert json.loads((tmp_path / crash / "versions.json").read_text())["torch"] == torch.__version__
    program = archive.load(tmp_path / crash / "program.pt2")
    assert len(program.calls(torch.ops.aten.neg.default)) == 1  # after double-negation, before the pass that failed
    assert "Traceback" not in result.err


def test_a_traceback_is_printed_where_it_is_asked_for(compile_small):
    assert "Traceback" in compile_small("-o", "out", "--insert", "legalize:fail", "-vv").err


def test_a_parent_that_is_a_file_is_a_clear_error(compile_small, tmp_path, folder):
    (tmp_path / "file").touch()
    result = compile_small("-o", "file/out")
    assert result.code == 2 and "cannot write file/out: " in result.err and folder() == ["file"]


def test_a_failure_leaves_no_new_parent_folder(compile_small, folder):
    assert compile_small("-o", "a/b/out", "--set", "target_options.error=0.5").code == 1
    assert folder() == []


def test_the_recipe_of_a_run_rebuilds_it(compile_small, edgecc, tmp_path):
    assert compile_small("-o", "out", "--cpu", "large", "--seed", "3").code == 0
    again = edgecc("compile", "--recipe", "out/recipe.toml", "-o", "again")
    assert again.code == 0
    for name in ("manifest.json", "model.pt2", "recipe.toml", "reference/case-00.npz"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_a_flag_replaces_the_recipe_and_set_comes_last(compile_small, edgecc, tmp_path):
    assert compile_small("-o", "out", "--seed", "3").code == 0
    flags = ["--recipe", "out/recipe.toml", "--seed", "4", "--cpu", "large", "--set", "target_options.cpu=small"]
    assert edgecc("compile", *flags, "-o", "again").code == 0
    recipe = read(tmp_path / "again/recipe.toml")
    assert recipe.options.seed == 4 and recipe.target_options["cpu"] == "small"


@pytest.mark.parametrize("threads", ["1", "2"])
def test_threads_do_not_change_a_byte(compile_small, compiled: Path, tmp_path, threads):
    before = torch.get_num_threads()
    assert compile_small("-o", "out", "--threads", threads, "--dump-ir").code == 0
    assert torch.get_num_threads() == before
    assert (tmp_path / "out/manifest.json").read_bytes() == (compiled / "manifest.json").read_bytes()


def test_the_seed_draws_the_weights_of_a_factory(compile_small, tmp_path):
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert compile_small("-o", name, "--seed", seed).code == 0
    a, b, c = ((tmp_path / n / "model.pt2").read_bytes() for n in "abc")
    assert a == b and a != c


def test_a_state_dict_goes_with_its_factory(edgecc, tmp_path):
    weights = {"fc.weight": torch.eye(3, 4), "fc.bias": torch.zeros(3)}
    torch.save(weights, tmp_path / "weights.pt")
    flags = ["--model", f"{MODELS}:architecture", "--input", "x:f32[batch=1..4,4]", "--load", HOST, "--target", "torch_host"]
    assert edgecc("compile", "weights.pt", *flags, "-o", "out").code == 0
    with np.load(tmp_path / "out/reference/case-00.npz") as case:
        np.testing.assert_array_equal(case["output/output"], np.maximum(-case["input/x"][:, :3], 0))


@pytest.mark.parametrize(
    ("spec", "code", "message"),
    [
        ("x:i64[2,4]", 2, "the PyTorch model itself fails on x: i64[2, 4]: RuntimeError: mat1 and mat2 must have the same dtype"),
        ("x:f32[2,5]", 3, "torch.export could not trace Small"),
        ("x:f32[4]", 0, ""),
        ("y:f32[2,4]", 2, "takes no input 'y'"),
    ],
)
def test_a_wrong_input_spec_is_one_clear_message(edgecc, tmp_path, spec, code, message):
    torch.save({"fc.weight": torch.eye(3, 4), "fc.bias": torch.zeros(3)}, tmp_path / "weights.pt")
    flags = ["--model", f"{MODELS}:architecture", "--input", spec, "--load", HOST, "--target", "torch_host", "-o", "out"]
    result = edgecc("compile", "weights.pt", *flags, "--progress", "none")
    assert result.code == code and message in result.err and "Traceback" not in result.err
    assert result.err.count("edgecc: ") == (code != 0)


class Touch:
    """Its pickle touches a file when it is loaded."""

    def __reduce__(self):
        return os.system, ("touch ran",)


def test_a_pickle_is_refused_and_not_run(edgecc, tmp_path, folder):
    torch.save({"fc.weight": Touch()}, tmp_path / "model.pt")
    flags = ["--model", f"{MODELS}:architecture", "--input", "x:f32[2,4]", "--load", HOST, "--target", "torch_host", "-o", "out"]
    result = edgecc("compile", "model.pt", *flags)
    assert result.code == 6 and "system" in result.err and folder() == ["model.pt"]


def test_calibration_inputs_are_checked_and_stored(compile_small, edgecc, tmp_path):
    (tmp_path / "images").mkdir()
    for name in "ab":
        np.savez(tmp_path / f"images/{name}.npz", x=np.full((2, 4), ord(name), np.float32))
    result = compile_small("-o", "out", "--calibration", "images", "--json")
    assert result.code == 0 and result.document["verify"]["cases"] == 5
    with np.load(tmp_path / "out/reference/case-04.npz") as case:
        assert case["input/x"][0, 0] == ord("b")
    assert edgecc("compile", "--recipe", "out/recipe.toml", "-o", "again", "--json").document["verify"]["cases"] == 5


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"y": np.zeros((2, 4), np.float32)}, "data.npz: inputs missing: ['x']; unknown: ['y']"),
        ({"x": np.zeros((2, 4))}, "data.npz: the inputs do not fit the program: x is f64, want f32"),
    ],
)
def test_calibration_inputs_that_do_not_fit_are_refused(compile_small, tmp_path, arrays, message):
    np.savez(tmp_path / "data.npz", **arrays)
    result = compile_small("-o", "out", "--calibration", "data.npz")
    assert result.code == 2 and message in result.err


def test_an_array_without_a_name_is_no_calibration(compile_small, tmp_path):
    np.save(tmp_path / "data.npy", np.zeros((2, 4), np.float32))
    result = compile_small("-o", "out", "--calibration", "data.npy")
    assert result.code == 2 and "data.npy holds one array without a name" in result.err
