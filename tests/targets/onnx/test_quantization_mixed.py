"""Quantization together with what changes the whole file: half precision, and PyTorch's exporter."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from torch import nn
from torch.nn import functional as F

import edgecc
from edgecc.ir import capture
from edgecc.registry import Registry
from edgecc.targets.tensorrt.lint import lint
from tests.models import build
from tests.targets.onnx import quantize_host as host
from tests.targets.onnx.qdq_host import INT8, fake_quantized, random, weight


def quantized_program(name):
    """A model of the zoo, quantized."""
    model, args, kwargs = build(name)
    target = Registry.create().create_target("tensorrt", {})
    program = host.optimized(capture.trace(model, args, kwargs), target)
    host.quantize(program, *program.examples)
    return host.optimized(program, target, "legalize: fold-constants, eliminate-common-subexpressions")


def compiled(model, inputs, target, output, **options):
    made = Registry.create().create_target(target, options)
    return edgecc.compile(model, inputs, target=made, output=output).report


@pytest.mark.slow
@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt"])
@pytest.mark.parametrize("name", ["mobilenet_v2", "vit"])
def test_a_quantized_model_in_float16_has_one_type_in_each_pair(name, target, tmp_path):
    program = quantized_program(name)
    found = compiled(program, (), target, tmp_path / "out", precision="fp16", exporter=False).as_dict()
    agreed = found["verify"]["quantized"]
    assert agreed["unchecked"] == 0 and agreed["within_one_step"] >= 0.999 and agreed["cosine"] >= 0.9999
    graph = onnx.load(tmp_path / "out" / "model.onnx").graph
    scales = {t.name: t for t in graph.initializer}
    read = [scales[n.input[1]] for n in graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert {t.data_type for t in read} == {TensorProto.FLOAT16} and all((onnx.numpy_helper.to_array(t) > 0).all() for t in read)
    assert Counter(n.op_type for n in graph.node)["Cast"] == 2  # one at each end
    if target == "tensorrt":
        assert lint(tmp_path / "out" / "model.onnx", "10.15").errors == 0


def test_a_scale_below_float16_is_not_rounded_to_zero(tmp_path):
    """A channel without weights has the least scale of its observer, 1e-8, and 2^-24 is the least number of float16."""
    w, x = random(16, 8), random(4, 8)
    w[3] = 1e-9
    report = compiled(_Layer(w), x, "tensorrt", tmp_path / "out", precision="fp16", exporter=False)
    assert report.agreement.broken() == []
    held = [onnx.numpy_helper.to_array(t) for t in onnx.load(tmp_path / "out" / "model.onnx").graph.initializer]
    (scales,) = [a for a in held if a.dtype == np.float16 and a.shape == (16,)]
    assert scales[3] == np.float16(2.0**-24) and (scales > 0).all()


class _Layer(nn.Module):
    def __init__(self, w):
        super().__init__()
        self.w = nn.Parameter(w)

    def forward(self, x):
        return F.linear(fake_quantized(x, 0.03, 0, INT8), weight(self.w))


class _Angle(_Layer):
    """atan2 has no lowering of edgecc's."""

    def forward(self, x):
        y = super().forward(x)
        return F.linear(fake_quantized(torch.atan2(y, x), 0.03, 0, INT8), weight(self.w))


@pytest.mark.slow
@pytest.mark.parametrize(("target", "kind"), [("onnxruntime", TensorProto.UINT8), ("tensorrt", TensorProto.INT8)])
def test_the_exporter_writes_a_quantized_model_with_an_operator_that_edgecc_lacks(target, kind, tmp_path):
    report = compiled(_Angle(random(8, 8)), random(4, 8), target, tmp_path / "out")
    found = report.as_dict()
    assert found["facts"]["exporter"] is True
    assert found["verify"]["quantized"]["calls"] == 2 and found["verify"]["quantized"]["unchecked"] == 0
    assert report.agreement.broken() == []
    model = onnx.load(tmp_path / "out" / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    kinds = Counter(n.op_type for n in model.graph.node)
    assert kinds["QuantizeLinear"] == 2 and kinds["DequantizeLinear"] == 3  # both layers read one weight
    types = {t.name: t.data_type for t in model.graph.initializer}
    assert {types[n.input[2]] for n in model.graph.node if n.op_type == "QuantizeLinear"} == {kind}
