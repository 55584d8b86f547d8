"""The targets onnxruntime and tensorrt by the command line: artifacts, what is verified, and PyTorch's exporter behind them."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch

import edgecc
from edgecc.__main__ import main
from edgecc.errors import ContractError
from tests import ROOT
from tests.test_bad_input import EDGES

MODELS = """
import torch
from torch import nn

class Angle(nn.Module):
    def forward(self, x):
        return torch.atan2(x, x + 2) * 2

class Odd(nn.Module):
    def forward(self, x):
        return torch.linalg.svd(x)[1], x.cumprod(1), x[x > 0]

def angle():
    return Angle(), (torch.randn(3, 4),)

def odd():
    return Odd(), (torch.randn(3, 4),)

def wide():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(600, 600), nn.ReLU(), nn.Linear(600, 4)), (torch.randn(2, 600),)

def half():
    torch.manual_seed(0)
    return nn.Linear(4, 4).half(), (torch.randn(3, 4).half(),)
"""


@pytest.fixture
def compiled(tmp_path, monkeypatch):
    (tmp_path / "models.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)

    def compiled(model, target, *flags):
        return main(["compile", f"models.py:{model}", "--target", target, "-o", "out", "--progress", "none", "-q", *flags])

    return compiled


def _report():
    with open("out/report.json") as file:  # noqa: PTH123  the fixture has changed the folder
        return json.load(file)


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt"])
def test_an_artifact_is_verified_in_onnx_runtime_and_says_so(compiled, target, tmp_path):
    assert compiled("wide", target) == 0
    report, manifest = _report(), json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert report["verify"]["runtime"].startswith("onnxruntime 1.")
    assert ("TensorRT itself was not run" in report["verify"]["runtime"]) == (target == "tensorrt")
    assert manifest["deployable"] == "model.onnx" and manifest["beside"] == ["model.onnx.data"]
    assert report["size_bytes"]["model"] >= report["size_bytes"]["original_weights"] == 4 * (600 * 600 + 600 + 2404)
    x = np.ones((2, 600), np.float32)
    again = edgecc.runners(tmp_path / "out")[0].run({"input": x})["output"]
    assert again.shape == (2, 4)


def test_what_edgecc_does_not_lower_is_written_by_pytorch(compiled, tmp_path):
    assert compiled("angle", "onnxruntime", "--input", "x:f32[n=1..9,4]") == 0
    remarks = [json.loads(line) for line in (tmp_path / "out" / "remarks.jsonl").read_text().splitlines()]
    assert [(r["kind"], "aten.atan2" in r["message"]) for r in remarks] == [("missed", True)]
    graph = onnx.load(tmp_path / "out" / "model.onnx").graph
    assert (graph.input[0].name, graph.input[0].type.tensor_type.shape.dim[0].dim_param) == ("x", "n")


def test_inspect_says_what_is_left_to_the_exporter(compiled, capsys):
    for target in ("onnxruntime", "tensorrt"):
        assert main(["inspect", "models.py:angle", "--target", target, "--json", "--progress", "none"]) == 0
        (found,) = json.loads(capsys.readouterr().out)["targets"]
        assert (found["supported"], found["substitute"], found["refused"]) == (True, "PyTorch's exporter", [])
        assert [(o["operator"], o["count"], o["sources"]) for o in found["substituted"]] == [("aten.atan2", 1, ["models.py:7"])]
    assert main(["inspect", "models.py:angle", "--progress", "none"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert "by PyTorch's exporter" in lines["onnxruntime"] and "aten.atan2 x1" in lines["onnxruntime"]
    assert main(["inspect", "models.py:wide", "--target", "tensorrt", "--progress", "none"]) == 0
    assert "tensorrt  yes" in capsys.readouterr().out


def test_a_half_model_is_lowered_without_the_exporter(compiled, tmp_path):
    assert compiled("half", "onnxruntime") == 0
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["facts"]["exporter"] is False


@pytest.mark.parametrize("flags", [(), ("--set", "target_options.exporter=false")])
def test_what_nobody_writes_is_listed_with_its_lines(compiled, flags, tmp_path, capsys):
    assert compiled("odd", "onnxruntime", *flags) == 4
    message = capsys.readouterr().err
    assert all(name in message for name in ("aten.linalg_svd", "aten.cumprod", "aten.index.Tensor", "models.py:11"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("factory", EDGES)
def test_a_model_at_the_edge_is_what_pytorch_computes(factory, tmp_path):
    model = f"{ROOT / 'tests' / 'odd_models.py'}:{factory}"
    assert main(["compile", model, "--target", "onnxruntime", "-o", str(tmp_path / "out"), "--progress", "none", "-q"]) == 0


def test_a_wrong_input_is_the_runtimes_own_message(compiled, tmp_path):
    assert compiled("wide", "onnxruntime") == 0
    with pytest.raises(ContractError, match="the model failed in onnxruntime"):
        edgecc.runners(tmp_path / "out")[0].run({"input": np.ones((2, 599), np.float32)})


def test_an_artifact_is_timed(compiled, capsys):
    assert compiled("wide", "onnxruntime") == 0
    capsys.readouterr()
    assert main(["bench", "out", "--json", "--seconds", "0.1", "--progress", "none"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["latency_ms"]["p50"] > 0 and found["size_bytes"] > 4 * 600 * 600


def test_the_runner_gives_outputs_of_rank_zero(tmp_path):
    result = edgecc.compile(_Sum(), torch.ones(3), target="onnxruntime", output=tmp_path / "out")
    assert edgecc.runners(result.artifact)[0].run({"x": np.float32([1, 2, 3])})["output"].shape == ()


class _Sum(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum()
