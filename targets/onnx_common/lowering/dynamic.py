"""Dynamic quantization: scales and zero points that are computed from the numbers they are for, of a tensor or of each row.

ONNX's DynamicQuantizeLinear is uint8 over its full range without a least scale, and has none for a row. It is taken where the
least scale is that of float32, 1.2e-7: below a range of 3e-5 its steps are finer than PyTorch's. Elsewhere these are plain
operators, as PyTorch computes them (torch.ao.quantization.utils.determine_qparams), in float32. What they quantize is multiplied
by MatMulInteger, which ONNX Runtime fuses with the scales; its own fusion over Q/DQ wants scales that are constant.
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


def product(b: Builder, x: Value, weight: Value | None, bias: Value | None) -> Value | None:
    """linear(x, weight) of what was dequantized, by integers: sum(q w) s_x s_w + bias, None where the scale of x is constant.

    x [.., in], weight [in, out] with zero points of 0, both of DequantizeLinear -> [.., out]. ONNX MatMulInteger.
    """
    left, right = (v.producer() if v is not None else None for v in (x, weight))
    if left is None or right is None or {left.op_type, right.op_type} != {"DequantizeLinear"}:
        return None
    (q, x_scale, x_zero), (w, w_scale, w_zero) = left.inputs[:3], right.inputs[:3]
    zeros = b.tensor_of(w_zero)
    if b.tensor_of(x_scale) is not None or b.rank(x_scale) or zeros is None or bool(zeros.any()):
        return None
    sums = b.op("MatMulInteger", q, w, x_zero, dtype=torch.int32, sizes=[*b.sizes(q)[:-1], b.sizes(w)[1]])
    found = b.op("Mul", b.cast(sums, torch.float32), b.op("Mul", x_scale, w_scale))
    return found if bias is None else b.op("Add", found, bias)


def _choose(b: Builder, node: fx.Node, x: Value, quant_min: int, quant_max: int, eps: float, dtype: torch.dtype) -> list[Value]:
    """s = max((max - min) / (quant_max - quant_min), eps) and z = quant_min - round(min / s); 0 is in the range. Both [1]."""
    if b.onnxruntime and (quant_min, quant_max, dtype) == (0, 255, torch.uint8) and eps <= _EPS and _only_quantizes(node):
        kinds: list[tuple[torch.dtype, list[Any]]] = [(dtype, b.sizes(x)), (torch.float32, []), (dtype, [])]
        _, scale, zero_point = b.ops("DynamicQuantizeLinear", x, results=kinds)
        return [b.cast(b.reshape(scale, [1]), torch.float64), b.cast(b.reshape(zero_point, [1]), torch.int64)]
    low, high = _range(b, x, list(range(b.rank(x))), keep=False)
    scale = b.binary("Max", b.binary("Div", b.op("Sub", high, low), float(quant_max - quant_min)), eps)
    zero_point = _clip(b, b.binary("Sub", float(quant_min), b.op("Round", b.op("Div", low, scale))), quant_min, quant_max)
    return [b.cast(b.reshape(scale, [1]), torch.float64), b.cast(b.reshape(zero_point, [1]), torch.int64)]


def _only_quantizes(node: fx.Node) -> bool:
    """Whether the scale and the zero point are for the tensor that they were chosen from, and nothing else reads them."""
    users = [call for part in node.users for call in part.users]
    quantizes = [u for u in users if u.target is quantized.quantize_per_tensor.tensor and u.args[0] is node.args[0]]
    return bool(quantizes) and all(u in quantizes or u.target is quantized.dequantize_per_tensor.tensor for u in users)


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
