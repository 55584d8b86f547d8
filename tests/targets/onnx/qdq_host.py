"""Single calls that quantize, and the files and refusals that a target makes of them."""

from __future__ import annotations

import onnx
import pytest
import torch

from edgecc.errors import UnsupportedError
from edgecc.ir.quantized import quantized
from edgecc.ir.verify import verify
from edgecc.registry import Registry
from edgecc.targets.onnx_common.lowering.dialect import Dialect
from edgecc.testing import trace_function
from tests.targets.onnx import quantize_host as host

INT8 = (-128, 127, torch.int8)
UINT8 = (0, 255, torch.uint8)
INT4 = (-8, 7, torch.int8)
UINT4 = (0, 15, torch.uint8)
TENSORRT, X86, ARM = Dialect(symmetric=True), Dialect("u8", onnxruntime=True), Dialect(onnxruntime=True)


def fake_quantized(x, scale, zero_point, limits):
    q = quantized.quantize_per_tensor(x, scale, zero_point, *limits)
    return quantized.dequantize_per_tensor(q, scale, zero_point, *limits)


def weight(w, axis=0, limits=(-127, 127, torch.int8)):
    """A float weight on the grid of int8, one scale for each channel."""
    scales = w.abs().amax([k for k in range(w.dim()) if k != axis]) / 127
    zeros = torch.zeros(len(scales), dtype=torch.int64)
    q = quantized.quantize_per_channel(w, scales, zeros, axis, *limits)
    return quantized.dequantize_per_channel(q, scales, zeros, axis, *limits)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def target(name, **options):
    return Registry.create().create_target(name, {"exporter": False, **options})


def model_of(function, *inputs, folder, name="onnxruntime", **options):
    """The file that a target writes of a function, after its passes, and the program."""
    made = target(name, **options)
    program = host.optimized(trace_function(function, *inputs), made)
    verify(program)
    return program, host.written(program, made, folder / name)


def kinds(file):
    return [n.op_type for n in onnx.load(file).graph.node]


def initializers(file):
    return {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(file).graph.initializer}


def blocks(columns, group, limits, *, rows=32, zero_points=None):
    numbers = torch.randint(limits[0], limits[1] + 1, (rows, columns), dtype=limits[2], generator=torch.Generator().manual_seed(0))
    scales = random(rows, columns // group).abs() / 10 + 0.01
    return lambda: quantized.dequantize_per_channel_group(numbers, scales, zero_points, *limits, group, torch.float32)


def refusal(function, *inputs, name="tensorrt", **options):
    made = Registry.create().create_target(name, options)  # with the exporter, which must not write what is refused
    program = host.optimized(trace_function(function, *inputs), made)
    with pytest.raises(UnsupportedError) as caught:
        host.support.check(program, made.capabilities(), made.name)
    return str(caught.value)
