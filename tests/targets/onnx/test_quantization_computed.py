"""Scales that a program computes from each input, in ONNX Runtime against PyTorch."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch.nn import functional as F

from edgecc.ir.quantized import quantized
from edgecc.targets.onnx_common.runtime import OnnxRuntimeRunner
from edgecc.testing import trace_function
from tests.targets.onnx import quantize_host as host
from tests.targets.onnx.onnx_host import compiled
from tests.targets.onnx.qdq_host import (
    INT8,
    UINT8,
    X86,
    kinds,
    model_of,
    random,
    refusal,
    weight,
)


@pytest.mark.parametrize(
    "x", [random(3, 40), random(3, 40).abs() + 1, -random(3, 40).abs(), torch.zeros(2, 4)], ids=["normal", "above 1", "below 0", "zero"]
)
@pytest.mark.parametrize("limits", [INT8, UINT8])
def test_scales_of_a_whole_tensor_are_those_of_pytorch(x, limits):
    def model(x):
        scale, zero_point = quantized.choose_qparams(x, *limits[:2], 2.0**-12, limits[2])
        q = quantized.quantize_per_tensor(x, scale, zero_point, *limits)
        return scale, zero_point, q, quantized.dequantize_per_tensor(q, scale, zero_point, *limits)

    program = trace_function(model, x)
    _close_integers(compiled(program, dialect=X86)(x), program(x))


def _close_integers(got, want):
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.numpy().dtype
        np.testing.assert_allclose(a.astype(np.float64), b.numpy().astype(np.float64), rtol=1e-6, atol=1e-6)


def dynamic_linear(w, bias, limits, eps):
    def model(x):
        scale, zero_point = quantized.choose_qparams(x, *limits[:2], eps, limits[2])
        q = quantized.quantize_per_tensor(x, scale, zero_point, *limits)
        return F.linear(quantized.dequantize_per_tensor(q, scale, zero_point, *limits), weight(w), bias)

    return model


@pytest.mark.parametrize("limits", [INT8, UINT8])
@pytest.mark.parametrize("eps", [torch.finfo(torch.float32).eps, 2.0**-12])
@pytest.mark.parametrize(("sizes", "bias"), [((5, 64), random(24)), ((2, 5, 64), random(24)), ((2, 5, 64), None)])
def test_a_layer_with_computed_scales_is_one_product_of_integers(sizes, bias, eps, limits, tmp_path):
    x, w = random(*sizes), random(24, 64, seed=1)
    program, file = model_of(dynamic_linear(w, bias, limits, eps), x, folder=tmp_path)
    assert kinds(file).count("MatMulInteger") == 1 and not {"DequantizeLinear", "MatMul"} & set(kinds(file))
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "optimized.onnx"), 3
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    own = eps < 2.0**-12
    assert ("DynamicQuantizeLinear" in kinds(file)) == own  # its steps have no least width
    assert ("DynamicQuantizeMatMul" if own else "MatMulIntegerToFloat") in kinds(tmp_path / "optimized.onnx")
    for given in (x, 100 * x, x.abs() + 1, -x.abs(), torch.zeros(sizes), 1e-3 * x):
        got, want = session.run(None, {"x": given.numpy()})[0], program(given)[0].numpy()
        # a number on the edge of two steps may go either way: one step of x times the largest weight
        step = max(float(given.max().clamp(min=0) - given.min().clamp(max=0)) / 255, eps)
        assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max() + 1.01 * step * float(w.abs().max())
        assert np.mean(np.abs(got - want) <= 1e-5 * max(np.abs(want).max(), 1e-30)) >= 0.9
    tiny = 1e-6 * x  # a range below 255 eps, where PyTorch's steps are eps: both are within half a step of what is not quantized
    float_ = F.linear(tiny, weight(w), bias).numpy()
    bound = eps / 2 * float(w.abs().sum(1).max()) + 1e-6 * np.abs(float_).max()
    for found in (session.run(None, {"x": tiny.numpy()})[0], program(tiny)[0].numpy()):
        assert np.abs(found - float_).max() <= bound


def test_int8_that_is_computed_becomes_uint8_on_x86_with_the_same_numbers(tmp_path):
    """q + 128 with zero point z + 128: the integers themselves, one by one."""
    w = random(8, 64)

    def model(x):
        scale, zero_point = quantized.choose_qparams(x, -128, 127, 2.0**-12, torch.int8)
        q = quantized.quantize_per_tensor(x, scale, zero_point, *INT8)
        return F.linear(quantized.dequantize_per_tensor(q, scale, zero_point, *INT8), weight(w))

    for name, kind, offset in (("x86", "UINT8", 128), ("arm", "INT8", 0)):
        program, file = model_of(model, random(3, 64), folder=tmp_path, cpu=name)
        proto = onnx.load(file)
        (node,) = [n for n in proto.graph.node if n.op_type == "QuantizeLinear"]
        proto.graph.output.append(onnx.helper.make_tensor_value_info(node.output[0], getattr(onnx.TensorProto, kind), None))
        onnx.save(proto, tmp_path / "exposed.onnx")
        for x in (random(3, 64), random(3, 64).abs(), 1e-3 * random(3, 64), torch.zeros(3, 64)):
            got = OnnxRuntimeRunner(tmp_path / "exposed.onnx", 1).run({"x": x.numpy()})[node.output[0]].astype(int) - offset
            values = host.Recorder(program, (x,)).values
            want = next(v for k, v in values.items() if k.startswith("quantize_per_tensor")).numpy()
            assert np.abs(got - want).max() <= 1 and (got == want).mean() >= 0.98


def test_scales_that_are_shared_or_read_are_computed_by_plain_operators(tmp_path):
    """DynamicQuantizeLinear gives float32 scales of rank 0 and quantizes its own input."""
    eps = torch.finfo(torch.float32).eps

    def shared(x):
        scale, zero_point = quantized.choose_qparams(x, 0, 255, eps, torch.uint8)
        q = quantized.quantize_per_tensor(x * 0.5, scale, zero_point, *UINT8)
        return quantized.dequantize_per_tensor(q, scale, zero_point, *UINT8)

    def read(x):
        scale, zero_point = quantized.choose_qparams(x, 0, 255, eps, torch.uint8)
        return scale, quantized.quantize_per_tensor(x, scale, zero_point, *UINT8)

    for function in (shared, read):
        x = random(3, 64)
        program, file = model_of(function, x, folder=tmp_path)
        assert "DynamicQuantizeLinear" not in kinds(file)
        found = OnnxRuntimeRunner(file, 1).run({"x": x.numpy()})
        for spec, want in zip(program.signature.outputs, program(x), strict=True):
            np.testing.assert_allclose(found[spec.name].astype(float), want.numpy().astype(float), rtol=1e-6)


def test_integers_with_computed_scales_that_others_read_stay_int8(tmp_path):
    def model(x):
        scale, zero_point = quantized.choose_qparams(x, -128, 127, 2.0**-12, torch.int8)
        return quantized.quantize_per_tensor(x, scale, zero_point, *INT8), zero_point

    x = random(3, 64)
    program, file = model_of(model, x, folder=tmp_path)
    found = OnnxRuntimeRunner(file, 1).run({"x": x.numpy()})
    for spec, want in zip(program.signature.outputs, program(x), strict=True):
        assert found[spec.name].dtype == want.numpy().dtype and (found[spec.name] == want.numpy()).all()


@pytest.mark.parametrize("x", [random(2, 5, 64), random(2, 5, 64).abs() + 1, torch.zeros(2, 3, 4)], ids=["normal", "above 1", "zero"])
def test_scales_of_each_token_are_those_of_pytorch(x):
    def model(x):
        scales, zero_points = quantized.choose_qparams_per_token_asymmetric(x, torch.int8)
        q = quantized.quantize_per_token(x, scales, zero_points, *INT8)
        return scales, zero_points, q, quantized.dequantize_per_token(q, scales, zero_points, *INT8, torch.float32)

    program = trace_function(model, x)
    _close_integers(compiled(program, dialect=X86)(x), program(x))


def test_tensorrt_wants_scales_when_it_builds():
    def tokens(x):
        scales, zero_points = quantized.choose_qparams_per_token_asymmetric(x, torch.int8)
        q = quantized.quantize_per_token(x, scales, zero_points, *INT8)
        return quantized.dequantize_per_token(q, scales, zero_points, *INT8, torch.float32)

    def tensor(x):
        scale, zero_point = quantized.choose_qparams(x, *INT8[:2], 2.0**-12, torch.int8)
        q = quantized.quantize_per_tensor(x, scale, zero_point, *INT8)
        return quantized.dequantize_per_tensor(q, scale, zero_point, *INT8)

    for model in (tokens, tensor):
        assert "its scales are computed from each input, TensorRT wants them when it builds: calibrate" in refusal(model, random(2, 8))
