"""Quantize and dequantize: floats to codes and back, as `quantized_decomposed` computes them."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from edgecc.ir.quantized import quantized
from edgecc.targeting.lowering import arguments_of
from edgecc.targets.tvm_cpu.lowering.builder import Builder, Expr, dtype_name, shape
from edgecc.targets.tvm_cpu.lowering.handler import Handlers, handlers


def _quantize(
    b: Builder, node: fx.Node, x: Expr, scale: float, zero_point: int, quant_min: int, quant_max: int, dtype: torch.dtype
) -> Expr:
    """`clamp(round(x / scale) + zero_point)`, half to even; x is multiplied by the inverse of the scale, as PyTorch does."""
    from tvm import tirx

    def element(t: Any, *index: Any) -> Any:
        rounded = tirx.nearbyint(t(*index) * tirx.const(1.0 / scale, "float32")) + tirx.const(float(zero_point), "float32")
        low, high = (tirx.const(float(v), "float32") for v in (quant_min, quant_max))
        return tirx.max(tirx.min(rounded, high), low).astype("int32").astype(dtype_name(dtype))

    return b.compute("quantize", shape(x), element, x)


def _dequantize(b: Builder, node: fx.Node, x: Expr, scale: float, zero_point: int, **ignored: Any) -> Expr:
    from tvm import tirx

    def element(t: Any, *index: Any) -> Any:
        return (t(*index).astype("float32") - tirx.const(float(zero_point), "float32")) * tirx.const(scale, "float32")

    return b.compute("dequantize", shape(x), element, x)


def _dequantize_channels(b: Builder, node: fx.Node, x: Expr, scales: Expr, zero_points: Expr | None, axis: int, **ignored: Any) -> Expr:
    channel = axis % len(shape(x))

    def element(t: Any, s: Any, *rest: Any) -> Any:
        z, index = (rest[0], rest[1:]) if zero_points is not None else (None, rest)
        code = t(*index).astype("float32")
        return (code if z is None else code - z(index[channel]).astype("float32")) * s(index[channel]).astype("float32")

    operands = [x, scales, *([zero_points] if zero_points is not None else [])]
    return b.compute("dequantize", shape(x), element, *operands)


def _refuse(node: fx.Node) -> str | None:
    bound = arguments_of(node)
    if not isinstance(bound.get("scale", 1.0), (int, float)) or not isinstance(bound.get("zero_point", 0), int):
        return "its scale is computed at run time"
    given, made = (v.meta["val"].dtype for v in (bound["x"], node))
    if torch.float64 in (given, made):
        return "float64 codes"
    return None


HANDLERS: Handlers = {
    **handlers(_quantize, quantized.quantize_per_tensor.default, refuse=_refuse),
    **handlers(_dequantize, quantized.dequantize_per_tensor.default, refuse=_refuse),
    **handlers(_dequantize_channels, quantized.dequantize_per_channel.default, refuse=_refuse),
}
