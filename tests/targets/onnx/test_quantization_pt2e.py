"""`.pt2` files quantized by torchao's PT2E, compiled on the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import onnx
import pytest

from edgecc.__main__ import main
from edgecc.targets.tensorrt.lint import lint
from tests import ROOT

HOST = ROOT / "tests" / "targets" / "onnx" / "pt2e_host.py"
pytestmark = pytest.mark.slow
WEIGHTS = 3


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    """The file that PT2E makes with each quantizer."""
    folder = tmp_path_factory.mktemp("pt2e")

    def quantized(name):
        file = folder / f"{name}.pt2"
        if not file.exists():
            subprocess.run([sys.executable, str(HOST), name, str(file)], check=True, capture_output=True)
        return str(file)

    return quantized


def compiled(file: str, target: str, folder: Path) -> int:
    flags = ["--set", "target_options.exporter=false", "-o", str(folder), "--progress", "none", "-q"]
    return main(["compile", file, "--target", target, *flags])


@pytest.mark.parametrize(
    ("quantizer", "target", "activations"),
    [
        ("x86", "onnxruntime", "UINT8"),
        ("arm", "onnxruntime", "UINT8"),
        ("symmetric", "onnxruntime", "UINT8"),
        ("symmetric", "tensorrt", "INT8"),
    ],
)
def test_a_file_of_pt2e_is_compiled_and_verified(quantizer, target, activations, quantized, tmp_path):
    assert compiled(quantized(quantizer), target, tmp_path / "out") == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["verify"]["cosine"] >= 0.9999
    graph = onnx.load(tmp_path / "out" / "model.onnx").graph
    types = {t.name: onnx.TensorProto.DataType.Name(t.data_type) for t in graph.initializer}
    read = Counter(types.get(n.input[0], "activation") for n in graph.node if n.op_type == "DequantizeLinear")
    assert read["INT8"] == WEIGHTS and {types[n.input[2]] for n in graph.node if n.op_type == "QuantizeLinear"} == {activations}
    assert [t.name for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT and len(t.dims) > 1] == []
    if target == "tensorrt":
        assert [f for f in lint(tmp_path / "out" / "model.onnx", "10.15").findings if f.severity == "E"] == []


def test_dynamic_quantization_is_compiled_for_onnx_runtime(quantized, tmp_path):
    assert compiled(quantized("dynamic"), "onnxruntime", tmp_path / "out") == 0
    assert json.loads((tmp_path / "out" / "report.json").read_text())["verify"]["cosine"] >= 0.9999


@pytest.mark.parametrize(
    ("quantizer", "reason"),
    [("x86", "quantizes to u8"), ("arm", "TensorRT has 0 alone"), ("dynamic", "its scales are computed from each input")],
)
def test_what_tensorrt_does_not_have_is_refused_with_its_lines(quantizer, reason, quantized, tmp_path, capsys):
    assert compiled(quantized(quantizer), "tensorrt", tmp_path / "out") == 4
    message = capsys.readouterr().err
    assert reason in message and "pt2e_host.py:" in message and not (tmp_path / "out").exists()
