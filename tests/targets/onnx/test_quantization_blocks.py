"""Weights with a scale for each block, in ONNX Runtime against PyTorch."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch.nn import functional as F

from edgecc.targets.onnx_common.lowering.dialect import Dialect
from edgecc.targets.onnx_common.runtime import OnnxRuntimeRunner
from edgecc.targets.tensorrt.lint import lint
from edgecc.testing import trace_function
from tests.targets.onnx.onnx_host import compiled
from tests.targets.onnx.qdq_host import (
    INT4,
    INT8,
    UINT4,
    blocks,
    initializers,
    kinds,
    model_of,
    random,
    refusal,
)


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize(("limits", "name"), [(INT4, "INT4"), (INT8, "INT8")])
def test_blocks_of_a_weight_are_one_dequantize_linear(limits, name, rank):
    dequantized = blocks(128, 64, limits)
    x = random(*[2, 3, 128][-rank:])
    program = trace_function(lambda x: F.linear(x, dequantized()), x)
    got = compiled(program, 21, dialect=Dialect())(x)[0]
    np.testing.assert_allclose(got, program(x)[0].numpy(), rtol=1e-4, atol=1e-4)


def test_int4_blocks_for_tensorrt_are_packed_and_break_no_rule(tmp_path):
    dequantized = blocks(128, 64, INT4)
    x = random(2, 3, 128)
    program, file = model_of(lambda x: F.linear(x, dequantized()), x, folder=tmp_path, name="tensorrt", opset=21)
    (stored,) = [t for t in onnx.load(file).graph.initializer if len(t.raw_data) == 128 * 32 // 2]
    assert (stored.data_type, list(stored.dims)) == (onnx.TensorProto.INT4, [128, 32])
    assert kinds(file) == ["DequantizeLinear", "MatMul"]
    assert [f for f in lint(file, "10.15").findings if f.severity == "E"] == []
    got = OnnxRuntimeRunner(file, 1).run({"x": x.numpy()})["output"]
    np.testing.assert_allclose(got, program(x)[0].numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize(("limits", "low"), [(INT4, -8), (UINT4, 0), (INT8, -128)])
@pytest.mark.parametrize("asymmetric", [False, True])
def test_a_linear_layer_over_blocks_is_one_node_in_onnx_runtime(limits, low, asymmetric, rank, tmp_path):
    offsets = torch.randint(low, low + 16, (32, 3), dtype=torch.int32, generator=torch.Generator().manual_seed(1))
    zero_points = offsets if asymmetric else None
    dequantized, bias = blocks(96, 32, limits, zero_points=zero_points), random(32)
    x = random(*[2, 3, 96][-rank:])
    program, file = model_of(lambda x: F.linear(x, dequantized(), bias), x, folder=tmp_path)
    assert kinds(file) == ["MatMulNBits"]
    bits = 8 if limits is INT8 else 4
    assert sum(v.nbytes for v in initializers(file).values() if v.dtype == np.uint8 and v.ndim == 3) == 32 * 96 * bits // 8
    got = OnnxRuntimeRunner(file, 1).run({"x": x.numpy()})["output"]
    want = program(x)[0].numpy()
    assert np.abs(got - want).max() <= 2e-6 * np.abs(want).max() * 96  # float32 sums of 96 terms, whose zero points cancel


def test_blocks_that_a_layer_and_something_else_read_stay_one_tensor(tmp_path):
    dequantized = blocks(64, 32, INT8)

    def model(x):
        shared = dequantized()
        return F.linear(x, shared), shared.sum(0)

    program, file = model_of(model, random(2, 64), folder=tmp_path, opset=21)
    assert "MatMulNBits" not in kinds(file) and kinds(file).count("DequantizeLinear") == 1
    found = OnnxRuntimeRunner(file, 1).run({"x": program.examples[0].numpy()})
    for spec, want in zip(program.signature.outputs, program(*program.examples), strict=True):
        np.testing.assert_allclose(found[spec.name], want.numpy(), rtol=1e-4, atol=1e-3)


def test_blocks_need_opset_21_and_sizes_that_tensorrt_has():
    x = random(2, 128)
    four, eight, small = blocks(128, 64, INT4), blocks(128, 64, INT8), blocks(128, 32, INT4)
    assert "from opset 21, and opset is 20" in refusal(lambda x: F.linear(x, four()), x)
    assert "from opset 21, and opset is 20" in refusal(lambda x: x @ four().t().contiguous(), x, name="onnxruntime")
    assert "blocks of 64 int8" in refusal(lambda x: F.linear(x, eight()), x, opset=21)
    assert "blocks of 32 int4" in refusal(lambda x: F.linear(x, small()), x, opset=21)
    moved = blocks(128, 64, INT4, zero_points=torch.ones(32, 2, dtype=torch.int32))
    assert "its blocks are asymmetric" in refusal(lambda x: F.linear(x, moved()), x, opset=21)
