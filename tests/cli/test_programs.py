"""`edgecc opt`, `edgecc diff` and `edgecc inspect`."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgecc.ir import archive
from edgecc.testing import operators
from tests.cli.conftest import HOST, MODELS


def test_opt_without_passes_prints_the_program(edgecc, compiled):
    result = edgecc("opt", compiled / "ir/00-trace.pt2")
    assert result.code == 0
    assert result.out == (compiled / "ir/00-trace.ir").read_text().partition("\n")[2]


def test_opt_prints_the_program_after_its_passes(edgecc, compiled):
    result = edgecc("opt", compiled / "ir/00-trace.ir", "--passes", "double-negation", "--load", HOST, "--progress", "none")
    assert result.out == (compiled / "ir/02-double-negation.ir").read_text().partition("\n")[2]
    assert result.err == ""


def test_opt_writes_a_program_that_loads_again(edgecc, compiled, tmp_path):
    flags = ("--passes", "double-negation", "--load", HOST, "-o", "out.pt2")
    result = edgecc("opt", compiled / "ir/00-trace.pt2", *flags)
    assert result.code == 0 and "written   out.pt2" in result.out
    assert operators(archive.load(tmp_path / "out.pt2")) == ["aten.linear", "aten.neg", "aten.relu"]
    assert edgecc("opt", compiled / "ir/00-trace.pt2", *flags).code == 6
    assert edgecc("opt", compiled / "ir/00-trace.pt2", *flags, "--overwrite").code == 0


def test_opt_dumps_beside_its_output(edgecc, compiled, tmp_path):
    flags = ("--passes", "double-negation", "--load", HOST, "--dump-ir")
    assert edgecc("opt", compiled / "ir/00-trace.pt2", *flags).code == 2
    assert edgecc("opt", compiled / "ir/00-trace.pt2", *flags, "-o", "out.pt2").code == 0
    assert sorted(p.name for p in (tmp_path / "out-ir").glob("*.ir")) == ["00-trace.ir", "01-double-negation.ir"]


def test_opt_checks_what_a_pass_promises(edgecc, compiled, folder):
    flags = ("--passes", "forget-sign", "--load", HOST, "-o", "out.pt2")
    result = edgecc("opt", compiled / "ir/00-trace.pt2", *flags)
    assert result.code == 1 and "pass 'forget-sign' promised" in result.err and folder() == []
    assert edgecc("opt", compiled / "ir/00-trace.pt2", *flags, "--verify", "structure").code == 0


def test_opt_json_has_the_ir(edgecc, compiled):
    found = edgecc("opt", compiled / "ir/00-trace.pt2", "--passes", "double-negation", "--load", HOST, "--json").document
    assert found["passes"][0]["rewrites"] == 1 and found["ir"].count("aten.neg") == 1


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("absent.pt2", None, "there is no file absent.pt2"),
        ("empty.pt2", "", "empty.pt2"),
        ("random.pt2", "not a zip", "random.pt2"),
        ("nameless.ir", "%x : f32[2] = input\n", "does not name its program"),
        ("orphan.ir", "# gone.pt2\n", "orphan.ir names gone.pt2, which is not beside it"),
    ],
)
def test_opt_refuses_what_is_no_program(edgecc, tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    result = edgecc("opt", name)
    assert result.code == 2 and message in result.err and "edgecc-crash" not in result.err


def test_diff_of_equal_programs_exits_0(edgecc, compiled):
    result = edgecc("diff", compiled / "ir/00-trace.ir", compiled / "ir/00-trace.pt2")
    assert (result.code, result.out) == (0, "") and "are equal" in result.err


def test_diff_names_each_node_that_differs(edgecc, compiled):
    found = edgecc("diff", compiled / "ir/00-trace.pt2", compiled, "--json")
    assert found.code == 1 and not found.document["equal"]
    assert [line.split(" ")[0] for line in found.document["removed"]] == ["%neg", "%neg_1"]
    assert [change["name"] for change in found.document["changed"]] == ["%linear"]
    lines = edgecc("diff", compiled / "ir/00-trace.pt2", compiled).out.splitlines()
    assert "- %neg : f32[2, 4] = aten.neg(%x)" in lines


def test_diff_sees_weights(edgecc, compiled, compile_small):
    assert compile_small("-o", "other", "--seed", "7", "--dump-ir").code == 0
    result = edgecc("diff", compiled, "other")
    assert result.code == 1 and "~ @fc.weight: same shape, other values" in result.out


def test_diff_needs_a_dump(edgecc, compile_small):
    assert compile_small("-o", "bare").code == 0
    result = edgecc("diff", "bare", "bare")
    assert result.code == 2 and "bare holds no dumped program" in result.err


def test_inspect_counts_a_model(edgecc, folder):
    found = edgecc("inspect", f"{MODELS}:small", "--load", HOST, "--target", "torch_host", "--json").document
    # 4 x 3 weights and 3 biases of 4 bytes; 2 rows of 4 x 3 multiply-accumulates
    assert (found["parameters"], found["bytes"], found["macs"]) == (15, 60, 24)
    assert found["ops"] == {"aten.linear": 1, "aten.neg": 3, "aten.relu": 1}
    assert found["inputs"] == [{"name": "x", "dtype": "float32", "shape": [2, 4]}]
    (target,) = found["targets"]
    assert target == {
        **{"name": "torch_host", "supported": True, "missing": "", "install": ""},
        **{"refused": [], "substitute": "", "substituted": []},
    }
    assert folder() == []


def test_inspect_lists_what_a_target_refuses(edgecc):
    flags = ("inspect", f"{MODELS}:inverse", "--load", HOST, "--target", "torch_host")
    (target,) = edgecc(*flags, "--json").document["targets"]
    assert not target["supported"]
    (refused,) = target["refused"]
    assert refused["operator"] == "aten.erfinv" and refused["count"] == 2
    assert "aten.erfinv x2" in edgecc(*flags).out


def test_inspect_says_where_it_cannot_know(edgecc):
    flags = ("inspect", f"{MODELS}:small", "--load", HOST, "--target", "needy_host")
    (target,) = edgecc(*flags, "--json").document["targets"]
    assert target["supported"] is None and target["install"] == "pip install unobtainium"
    assert "unknown" in edgecc(*flags).out


def test_inspect_shows_dynamic_sizes(edgecc):
    result = edgecc("inspect", f"{MODELS}:small", "--input", "x:f32[batch=1..4,4]", "--load", HOST, "--target", "torch_host")
    assert "dim batch: 1 to 4" in result.out and "[batch, 4]" in result.out


def test_inspect_of_an_artifact_reads_its_files_alone(edgecc, compiled):
    result = edgecc("inspect", compiled, "--json")
    assert (result.document["parameters"], result.document["macs"]) == (15, 24)
    assert result.document["target"] == "torch_host" and result.document["verify"]["runtime"] == "torch host"
    assert "model.pt2" in edgecc("inspect", compiled).out


def test_inspect_of_ir_reads_its_program(edgecc, compiled: Path):
    found = edgecc("inspect", compiled / "ir/02-double-negation.ir", "--load", HOST, "--target", "torch_host", "--json").document
    assert found["ops"] == {"aten.linear": 1, "aten.neg": 1, "aten.relu": 1}
