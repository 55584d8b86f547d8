"""Convolutions and transposed convolutions of one, two and three dimensions."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from edgecc.ir.ops import each, padding_widths
from edgecc.targeting.lowering import arguments_of, fake
from edgecc.targets.onnx_common.builder import Builder
from edgecc.targets.onnx_common.lowering.handler import Handlers, Value, first, handlers

aten = torch.ops.aten


def _convolve(
    b: Builder,
    node: fx.Node,
    x: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Value:
    """x [n, c, ..], weight [out, c / groups, ..] -> [n, out, ..]. ONNX Conv."""
    axes = b.rank(weight) - 2
    dilations = each(dilation, axes)
    widths = padding_widths(padding, b.sizes(weight)[2:], dilations)
    pads = [w[0] for w in widths] + [w[1] for w in widths]
    return _batched(b, node, "Conv", x, weight, bias, strides=each(stride, axes), pads=pads, dilations=dilations, group=groups)


def _transposed(
    b: Builder,
    node: fx.Node,
    x: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Value:
    """x [n, c, ..], weight [c, out / groups, ..] -> [n, out, ..]. ONNX ConvTranspose."""
    axes = b.rank(weight) - 2
    extra, strides, pads = each(output_padding, axes), each(stride, axes), each(padding, axes)
    options = {"strides": strides, "dilations": each(dilation, axes), "group": groups}
    if all(e < s for e, s in zip(extra, strides, strict=True)):
        shown = extra if any(extra) else None
        return _batched(b, node, "ConvTranspose", x, weight, bias, pads=pads * 2, output_padding=shown, **options)
    return _batched(b, node, "ConvTranspose", x, weight, bias, pads=pads + [p - e for p, e in zip(pads, extra, strict=True)], **options)


def _batched(b: Builder, node: fx.Node, kind: str, x: Value, weight: Value, bias: Value | None, **options: Any) -> Value:
    """Convolve with a batch of one where the input has none."""
    sizes = b.sizes_of(first(node))
    if b.rank(x) == b.rank(weight):
        return b.op(kind, x, weight, bias, sizes=sizes, **options)
    return b.squeeze(b.op(kind, b.unsqueeze(x, [0]), weight, bias, sizes=[1, *sizes], **options), [0])


def _general(
    b: Builder,
    node: fx.Node,
    x: Value,
    weight: Value,
    bias: Value | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> Value:
    if transposed:
        return _transposed(b, node, x, weight, bias, stride, padding, output_padding, groups, dilation)
    return _convolve(b, node, x, weight, bias, stride, padding, dilation, groups)


def _refuse(node: fx.Node, opset: int) -> str | None:
    arguments = arguments_of(node)
    if not fake(arguments["x"]).is_floating_point():
        return "convolution of integers"
    if _beyond(arguments):
        return "an output padding that reaches beyond the kernel"
    return "a kernel of dynamic size" if any(isinstance(s, torch.SymInt) for s in fake(arguments["weight"]).shape) else None


def _beyond(arguments: dict[str, Any]) -> bool:
    """Whether an output padding is neither below the stride, as ONNX wants it, nor a part of the padding."""
    axes = fake(arguments["weight"]).dim() - 2
    options = (each(arguments.get(name, 0), axes) for name in ("output_padding", "stride", "padding"))
    return isinstance(arguments.get("padding"), list) and any(e >= s and e > p for e, s, p in zip(*options, strict=True))


HANDLERS: Handlers = {
    **handlers(_convolve, aten.conv1d.default, aten.conv2d.default, aten.conv3d.default, refuse=_refuse),
    **handlers(_convolve, aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding, refuse=_refuse),
    **handlers(_transposed, aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input, refuse=_refuse),
    **handlers(_general, aten.convolution.default, refuse=_refuse),
}
