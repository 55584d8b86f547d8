"""Dynamic quantization: scales and zero points that are computed from the numbers they are for, of a tensor or of each row.

ONNX's DynamicQuantizeLinear is uint8 over its full range without a least scale, and has none for a row; so these are plain
operators, as PyTorch computes them (torch.ao.quantization.utils.determine_qparams), in float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from edgecc.ir.dtypes import dtype_name
from edgecc.ir.quantized import quantized
from edgecc.targets.onnx_common.builder import Builder
from edgecc.targets.onnx_common.lowering.handler import Handlers, Value, first, handlers
from edgecc.targets.onnx_common.lowering.quantization import as_float

_EPS = torch.finfo(torch.float32).eps


def _choose(b: Builder, node: fx.Node, x: Value, quant_min: int, quant_max: int, eps: float, dtype: torch.dtype) -> list[Value]:
    """s = max((max - min) / (quant_max - quant_min), eps) and z = quant_min - round(min / s); 0 is in the range. Both [1]."""
    low, high = _range(b, x, list(range(b.rank(x))), keep=False)
    scale = b.binary("Max", b.binary("Div", b.op("Sub", high, low), float(quant_max - quant_min)), eps)
    zero_point = _clip(b, b.binary("Sub", float(quant_min), b.op("Round", b.op("Div", low, scale))), quant_min, quant_max)
    return [b.cast(b.reshape(scale, [1]), torch.float64), b.cast(b.reshape(zero_point, [1]), torch.int64)]


def _choose_per_token(b: Builder, node: fx.Node, x: Value, dtype: torch.dtype) -> list[Value]:
    """The same for the last axis, int8, z from the end of the range whose error is smaller. x [.., k] -> both [.., 1]."""
    low, high = _range(b, x, [b.rank(x) - 1], keep=True)
    scale = b.binary("Max", b.binary("Div", b.op("Sub", high, low), 255.0), _EPS)
    down, up = b.op("Div", low, scale), b.op("Div", high, scale)
    errors = b.op("Add", b.binary("Add", down, -128.0), b.binary("Add", up, 127.0))
    from_low = b.binary("Greater", errors, 0.0, dtype=torch.bool)
    chosen = b.op("Where", from_low, b.binary("Sub", -128.0, down), b.binary("Sub", 127.0, up), dtype=torch.float32)
    return [b.cast(scale, torch.float64), b.cast(b.op("Round", _clip(b, chosen, -128, 127)), torch.int64)]


def _range(b: Builder, x: Value, axes: list[int], *, keep: bool) -> tuple[Value, Value]:
    return b.binary("Min", b.reduce("ReduceMin", x, axes, keep), 0.0), b.binary("Max", b.reduce("ReduceMax", x, axes, keep), 0.0)


def _clip(b: Builder, x: Value, low: int, high: int) -> Value:
    return b.op("Clip", x, b.constant(float(low), torch.float32), b.constant(float(high), torch.float32), sizes=b.sizes(x))


def _quantize(
    b: Builder, node: fx.Node, x: Value, scales: Value, zero_points: Value, quant_min: int, quant_max: int, dtype: torch.dtype
) -> Value:
    """clip(round(x / s + z)), a scale for each row."""
    moved = b.op("Add", b.op("Div", x, as_float(b, scales)), as_float(b, zero_points))
    return b.cast(_clip(b, b.op("Round", moved), quant_min, quant_max), dtype)


def _dequantize(b: Builder, node: fx.Node, x: Value, scales: Value, zero_points: Value, **unused: Any) -> Value:
    """(x - z) * s, a scale for each row."""
    return b.op("Mul", b.op("Sub", b.cast(x, torch.float32), as_float(b, zero_points)), as_float(b, scales))


def _refuse(node: fx.Node, opset: int) -> str | None:
    return None if first(node).dtype is torch.float32 else f"it dequantizes to {dtype_name(first(node).dtype)}, want float32"


HANDLERS: Handlers = {
    **handlers(_choose, quantized.choose_qparams.tensor),
    **handlers(
        _choose_per_token,
        quantized.choose_qparams_per_token_asymmetric.default,
        quantized._choose_qparams_per_token_asymmetric_impl.default,
    ),
    **handlers(_quantize, quantized.quantize_per_token.default),
    **handlers(_dequantize, quantized.dequantize_per_token.default, refuse=_refuse),
}
