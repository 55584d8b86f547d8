"""`edgecc run` and `edgecc verify`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from edgecc.ir import archive
from tests.cli.conftest import HOST, MODELS


@pytest.fixture
def x(tmp_path: Path) -> np.ndarray:
    values = np.random.default_rng(0).standard_normal((2, 4), dtype=np.float32)
    np.save(tmp_path / "x.npy", values)
    return values


@pytest.fixture
def copy(compiled: Path, tmp_path: Path) -> Path:
    """A run directory that a test may change."""
    return Path(shutil.copytree(compiled, tmp_path / "copy"))


@pytest.fixture
def dynamic(edgecc) -> str:
    """A run directory whose model takes 1 to 4 rows."""
    flags = ["--input", "x:f32[batch=1..4,4]", "--load", HOST, "--target", "torch_host", "-o", "dynamic"]
    assert edgecc("compile", f"{MODELS}:small", *flags).code == 0
    return "dynamic"


def torch_output(compiled: Path, x: np.ndarray) -> np.ndarray:
    """max(-(x W^T + b), 0) in numpy, from the weights of the traced program."""
    weights = {name: w.numpy() for name, w in archive.load(compiled / "ir/00-trace.pt2").weights().items()}
    return np.maximum(-(x @ weights["fc.weight"].T + weights["fc.bias"]), 0)


def test_run_writes_the_outputs_by_name(edgecc, compiled, x, tmp_path):
    result = edgecc("run", compiled, "--load", HOST, "--input", "x=x.npy", "-o", "out.npz")
    assert result.code == 0 and "run on    torch host" in result.out and "written   out.npz" in result.out
    with np.load(tmp_path / "out.npz") as outputs:
        assert outputs.files == ["output"]
        # 1e-6: sums of four float32 products of size one
        np.testing.assert_allclose(outputs["output"], torch_output(compiled, x), atol=1e-6)


def test_run_without_an_output_file_summarizes(edgecc, compiled, x, folder):
    found = edgecc("run", compiled, "--load", HOST, "--input", "x=x.npy", "--json").document
    assert found["runtime"] == "torch host" and found["written"] is None
    (output,) = found["outputs"]
    assert (output["name"], output["dtype"], output["shape"]) == ("output", "float32", [2, 3])
    assert output["max"] == pytest.approx(torch_output(compiled, x).max(), abs=1e-6)
    assert folder() == ["x.npy"]


def test_run_lists_every_wrong_name(edgecc, compiled, x):
    result = edgecc("run", compiled, "--load", HOST, "--input", "y=x.npy", "--input", "z=x.npy")
    assert result.code == 2
    assert "inputs missing: ['x']; unknown: ['y', 'z']; the program takes x: f32[2, 4]" in result.err


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 4)), "x is f64, want f32"),
        (np.zeros(4, np.float32), "x has shape [4], want x: f32[2, 4]"),
        (np.zeros((3, 4), np.float32), "x has size 3 at axis 0, want 2"),
        (np.array(["a"]), "an input has dtype <U1, which no model takes"),
        (np.array([{}], dtype=object), "x.npy cannot be read: Object arrays cannot be loaded when allow_pickle=False"),
    ],
)
def test_run_refuses_an_input_that_does_not_fit(edgecc, compiled, tmp_path, array, message):
    np.save(tmp_path / "x.npy", array)
    result = edgecc("run", compiled, "--load", HOST, "--input", "x=x.npy")
    assert result.code == 2 and message in result.err


def test_run_holds_dynamic_sizes_to_their_bounds(edgecc, dynamic, tmp_path):
    for rows, code in ((1, 0), (4, 0), (5, 2)):
        np.save(tmp_path / "x.npy", np.zeros((rows, 4), np.float32))
        result = edgecc("run", dynamic, "--load", HOST, "--input", "x=x.npy")
        assert result.code == code
    assert "dimension batch is 5, want batch=1..4" in result.err


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--input", "x.npy"], 2, "--input 'x.npy': want NAME=FILE.npy"),
        (["--input", "x=absent.npy"], 2, "absent.npy cannot be read"),
        (["--input", "x=x.npy", "--input", "x=x.npy"], 2, "--input x was given twice"),
        (["--input", "x=x.npy", "-o", "out.txt"], 2, "outputs are written as .npz"),
        (["--input", "x=x.npy", "-o", "absent/out.npz"], 2, "cannot write absent/out.npz: No such file or directory"),
        (["--input", "x=x.npy", "-o", "taken.npz"], 6, "taken.npz exists"),
    ],
)
def test_run_says_what_is_wrong_with_its_files(edgecc, compiled, x, tmp_path, folder, flags, code, message):
    (tmp_path / "taken.npz").touch()
    result = edgecc("run", compiled, "--load", HOST, *flags)
    assert result.code == code and message in result.err
    assert folder() == ["taken.npz", "x.npy"]


def test_run_needs_a_run_directory(edgecc, tmp_path):
    result = edgecc("run", tmp_path)
    assert result.code == 2 and "is not a run directory: it has no manifest.json" in result.err


def test_a_dry_run_checks_the_inputs_alone(edgecc, compiled, x):
    result = edgecc("run", compiled, "--load", HOST, "--input", "x=x.npy", "-o", "out.npz", "--dry-run")
    assert result.code == 0 and not Path("out.npz").exists()


def test_verify_runs_every_stored_case(edgecc, compiled):
    result = edgecc("verify", compiled, "--load", HOST)
    assert result.code == 0 and "ran       on torch host: 3 cases, equal bit for bit" in result.out


def test_verify_finds_a_changed_file(edgecc, copy):
    (copy / "model.pt2").write_bytes((copy / "model.pt2").read_bytes() + b"\0")
    (copy / "reference/case-00.npz").unlink()
    result = edgecc("verify", copy, "--load", HOST, "--json")
    assert result.code == 1 and not result.document["ok"]
    assert result.document["files"] == ["model.pt2 has changed since it was compiled", "reference/case-00.npz is missing"]


def test_verify_finds_a_mismatch(edgecc, copy):
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["facts"]["error"] = 0.5
    (copy / "manifest.json").write_text(json.dumps(manifest))
    result = edgecc("verify", copy, "--load", HOST, "--json")
    assert result.code == 1 and result.document["runtimes"][0]["max_abs"] == pytest.approx(0.5)
    assert "on torch host: the outputs differ by" in result.document["problems"][0]


def test_verify_takes_further_cases(edgecc, compiled, x, tmp_path):
    (tmp_path / "data").mkdir()
    right = torch_output(compiled, x)
    np.savez(tmp_path / "data/right.npz", **{"input/x": x, "output/output": right})
    result = edgecc("verify", compiled, "--load", HOST, "--data", "data", "--json")
    assert result.code == 0 and result.document["runtimes"][0]["cases"] == 4
    np.savez(tmp_path / "data/wrong.npz", **{"input/x": x, "output/output": right + 1})
    assert edgecc("verify", compiled, "--load", HOST, "--data", "data").code == 1
    assert edgecc("verify", compiled, "--load", HOST, "--data", "data/right.npz").code == 0


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros(1)}, "a case has inputs [] and outputs []"),
        ({"input/y": np.zeros(1), "output/output": np.zeros(1)}, "a case has inputs ['y'] and outputs ['output']; the model takes ['x']"),
    ],
)
def test_verify_refuses_cases_of_another_model(edgecc, compiled, tmp_path, arrays, message):
    np.savez(tmp_path / "case.npz", **arrays)
    result = edgecc("verify", compiled, "--load", HOST, "--data", "case.npz")
    assert result.code == 2 and message in result.err


def test_verify_refuses_a_file_that_is_no_npz(edgecc, compiled, tmp_path):
    (tmp_path / "case.npz").write_bytes(b"PK\x03\x04 truncated")
    result = edgecc("verify", compiled, "--load", HOST, "--data", "case.npz")
    assert result.code == 2 and "case.npz cannot be read" in result.err


def test_an_artifact_of_an_unknown_target_says_so(edgecc, compiled):
    result = edgecc("verify", compiled)
    assert result.code == 2 and "unknown target 'torch_host'" in result.err
