"""Explicit quantization: the `quantized_decomposed` calls of a tensor or of its channels, as QuantizeLinear and DequantizeLinear.

A constant is quantized here, and stored as integers once. A zero point is always written, for a missing one means int8 to
TensorRT and uint8 to ONNX (onnx-tensorrt, onnxOpImporters.cpp, QuantDequantLinearHelper; ONNX, QuantizeLinear).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from edgecc.ir.dtypes import dtype_name
from edgecc.ir.quantized import quantized
from edgecc.targeting.lowering import arguments_of, fake
from edgecc.targets.onnx_common.builder import Builder
from edgecc.targets.onnx_common.lowering.dialect import is_constant, is_narrow
from edgecc.targets.onnx_common.lowering.handler import Handlers, Value, first, handlers

aten = torch.ops.aten


def turned_weight(b: Builder, node: fx.Node, *, any_rank: bool = False) -> Value | None:
    """The dequantized weight of a linear layer as [in, out], stored so; None where others read it as it is, or it is float.
    `any_rank`: layers of two axes become MatMul too.

    Scales that go along its rows go along its columns: axis 1, that of the output channels of MatMul.
    """
    weight = arguments_of(node)["weight"]
    if not isinstance(weight, fx.Node) or weight.target not in _DEQUANTIZE or not is_turnable(weight, any_rank=any_rank):
        return None
    bound = arguments_of(weight)
    source = b.transpose(b.weight(bound["x"]), [1, 0])
    given = {name: b.weight(value) if is_constant(value) else value for name, value in bound.items()}
    return dequantize(b, source, given, None if bound.get("axis") is None else 1 - bound["axis"] % 2)


def is_turnable(weight: fx.Node, *, any_rank: bool = False) -> bool:
    """Whether only linear layers that become MatMul read what dequantizes a constant."""
    layers = all(user.target is aten.linear.default and user.args[1] is weight for user in weight.users)
    ranks = layers and (any_rank or all(first(user).dim() != 2 for user in weight.users))
    return is_constant(weight.args[0]) and fake(weight.args[0]).dim() == 2 and ranks


def dequantize(b: Builder, x: Value, bound: dict[str, Any], axis: int | None) -> Value:
    """(x - zero_point) * scale of the whole tensor, or along an axis. ONNX DequantizeLinear."""
    options = _parameters(b, bound, b.dtype(x), axis)
    return b.op("DequantizeLinear", x, *options, axis=axis, dtype=torch.float32, sizes=b.sizes(x))


def _parameters(b: Builder, bound: dict[str, Any], dtype: torch.dtype, axis: int | None) -> tuple[Value, Value]:
    """Scale and zero point as ONNX takes them: of rank 0, or one for each channel; zero points of the quantized dtype."""
    scale, zero_point = (bound.get(name, bound.get(f"{name}s")) for name in ("scale", "zero_point"))
    chosen = None if isinstance(scale, float) else _chosen(scale)
    if chosen is not None:
        return chosen, chosen.producer().outputs[2]
    scale = b.constant(scale, torch.float32, "scale") if isinstance(scale, float) else as_float(b, scale)
    count = [] if axis is None else b.sizes(scale)
    number = zero_point is None or isinstance(zero_point, int)
    held = torch.full(count, zero_point or 0) if number else b.tensor_of(zero_point)
    zero = b.cast(zero_point, dtype) if held is None else b.constant(held.reshape(count), dtype, "zero")
    return (scale, zero) if count else (_scalar(b, scale), _scalar(b, zero))


def _scalar(b: Builder, x: Value) -> Value:
    """One number without its axes."""
    return b.reshape(x, []) if b.tensor_of(x) is not None else b.squeeze(x, list(range(b.rank(x))))


def as_float(b: Builder, x: Value) -> Value:
    """A scale or zero point in float32, and not by way of the float64 or int64 that PyTorch keeps it in."""
    producer = x.producer()
    if producer is not None and producer.op_type == "Cast" and b.dtype(producer.inputs[0]) is torch.float32:
        return producer.inputs[0]
    return b.cast(x, torch.float32)


def _quantize(b: Builder, node: fx.Node, x: Value, **parameters: Any) -> Value:
    """round(x / scale) + zero_point, half to even, saturated. ONNX QuantizeLinear.

    -127..127 saturates at -128: a number beyond the calibrated range may be one step lower. Narrower ranges are clipped.
    """
    if all(map(is_constant, node.all_input_nodes)):
        return _compute(b, node, x, parameters)
    dtype, axis = parameters["dtype"], parameters.get("axis")
    made = _made_with_its_scale(b, node, x, parameters)
    if made is not None:
        return made
    options = _parameters(b, parameters, dtype, axis)
    found = b.op("QuantizeLinear", x, *options, axis=axis, dtype=dtype, sizes=b.sizes(x))
    if not is_narrow(parameters):
        return found
    limits = (b.constant(parameters[name], dtype) for name in ("quant_min", "quant_max"))
    return b.op("Clip", found, *limits, sizes=b.sizes(x))


def _made_with_its_scale(b: Builder, node: fx.Node, x: Value, parameters: dict[str, Any]) -> Value | None:
    """The integers of DynamicQuantizeLinear, which chose the scale of the same tensor."""
    scale = parameters.get("scale")
    chosen = None if scale is None or isinstance(scale, float) else _chosen(scale)
    if chosen is None or chosen.producer().inputs[0] is not x:
        return None
    made = chosen.producer().outputs[0]
    made.name = b.free(node.name)
    return made


def _chosen(x: Value) -> Value | None:
    """The result of DynamicQuantizeLinear behind the dtype and shape that PyTorch gives it, None where x is none."""
    producer = x.producer()
    while producer is not None and producer.op_type in ("Cast", "Reshape", "Squeeze"):
        x = producer.inputs[0]
        producer = x.producer()
    return x if producer is not None and producer.op_type == "DynamicQuantizeLinear" else None


def _dequantize(b: Builder, node: fx.Node, x: Value, **parameters: Any) -> Value:
    """A vector, such as a bias, is stored in floating point: runtimes add it to what they have multiplied."""
    if all(map(is_constant, node.all_input_nodes)) and b.rank(x) <= 1:
        return _compute(b, node, x, parameters)
    return dequantize(b, x, parameters, parameters.get("axis"))


def _compute(b: Builder, node: fx.Node, x: Value, parameters: dict[str, Any]) -> Value:
    """The call on what an initializer holds, with PyTorch's own kernel."""
    held = {k: t if (t := b.tensor_of(v)) is not None else v for k, v in parameters.items()}
    assert callable(node.target)
    operator = node.target
    return b.derived([x], f"{dtype_name(first(node).dtype)}.{node.name}", lambda tensor: operator(tensor, **held))


_QUANTIZE = (quantized.quantize_per_tensor.default, quantized.quantize_per_tensor.tensor, quantized.quantize_per_channel.default)
_DEQUANTIZE = (
    *(quantized.dequantize_per_tensor.default, quantized.dequantize_per_tensor.tensor),
    quantized.dequantize_per_channel.default,
)
HANDLERS: Handlers = {**handlers(_quantize, *_QUANTIZE), **handlers(_dequantize, *_DEQUANTIZE)}
