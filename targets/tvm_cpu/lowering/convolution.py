"""Convolutions and transposed convolutions of one, two and three dimensions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from edgecc.ir.ops import each, padding_widths
from edgecc.targeting.lowering import arguments_of, fake
from edgecc.targets.tvm_cpu.lowering.builder import Builder, Expr, rank, shape
from edgecc.targets.tvm_cpu.lowering.handler import Handlers, handlers
from edgecc.targets.tvm_cpu.lowering.padding import padded

aten = torch.ops.aten


def _convolve(
    b: Builder,
    node: fx.Node,
    x: Expr,
    weight: Expr,
    bias: Expr | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Expr:
    """x [n, c, ..], weight [out, c / groups, ..] -> [n, out, ..]."""
    axes = rank(weight) - 2
    dilation = each(dilation, axes)
    widths = padding_widths(padding, shape(weight)[2:], dilation)
    before, after = [w[0] for w in widths], [w[1] for w in widths]
    options = {"strides": each(stride, axes), "padding": before + after, "dilation": dilation, "groups": groups}
    return _batched(b, x, axes, lambda data: _biased(b, b.op(f"nn.conv{axes}d", data, weight, **options), bias))


def _transposed(
    b: Builder,
    node: fx.Node,
    x: Expr,
    weight: Expr,
    bias: Expr | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Expr:
    """x [n, c, ..], weight [c, out / groups, ..] -> [n, out, ..]."""
    axes = rank(weight) - 2
    sizes = b.shape(node)
    kernel = _dilated(b, weight, each(dilation, axes))
    widths = each(padding, axes)
    strides, extra = each(stride, axes), each(output_padding, axes)

    def transposed(data: Expr) -> Expr:
        if all(e < s for e, s in zip(extra, strides, strict=True)):
            options = {"strides": strides, "padding": widths + widths, "output_padding": extra, "groups": groups}
            return _biased(b, b.op(f"nn.conv{axes}d_transpose", data, kernel, **options), bias)
        # Relax wants an output padding below the stride; where only the dilation is above it, the border is bias alone
        options = {"strides": strides, "padding": widths + widths, "groups": groups}
        inner = b.op(f"nn.conv{axes}d_transpose", data, kernel, **options)
        border = [w for e in reversed(extra) for w in (0, e)]
        grown = padded(b, inner, border, "constant", 0, sizes if len(sizes) == axes + 2 else [1, *sizes])
        return _biased(b, grown, bias)

    return _batched(b, x, axes, transposed)


def _dilated(b: Builder, weight: Expr, dilation: list[int]) -> Expr:
    """The kernel with zeros between its elements."""
    from tvm import topi

    if all(d == 1 for d in dilation):
        return weight
    return b.te("dilate", lambda w: topi.nn.dilate(w, [1, 1, *dilation]), weight)


def _batched(b: Builder, x: Expr, axes: int, convolve: Callable[[Expr], Expr]) -> Expr:
    """Convolve with a batch of one where the input has none."""
    if rank(x) == axes + 2:
        return convolve(x)
    result = convolve(b.op("expand_dims", x, 0))
    return b.reshape(result, shape(result)[1:])


def _biased(b: Builder, x: Expr, bias: Expr | None) -> Expr:
    return x if bias is None else b.op("add", x, b.reshape(bias, [1, shape(bias)[0], *[1] * (rank(x) - 2)]))


def _general(
    b: Builder,
    node: fx.Node,
    x: Expr,
    weight: Expr,
    bias: Expr | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> Expr:
    if transposed:
        return _transposed(b, node, x, weight, bias, stride, padding, output_padding, groups, dilation)
    return _convolve(b, node, x, weight, bias, stride, padding, dilation, groups)


def _refuse(node: fx.Node) -> str | None:
    arguments = arguments_of(node)
    x, weight = fake(arguments["x"]), fake(arguments["weight"])
    if not x.is_floating_point():
        return "convolution of integers"
    if any(isinstance(s, torch.SymInt) for s in weight.shape):
        return "a kernel of dynamic size"
    return None


HANDLERS: Handlers = {
    **handlers(_convolve, aten.conv1d.default, aten.conv2d.default, aten.conv3d.default, refuse=_refuse),
    **handlers(_convolve, aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding, refuse=_refuse),
    **handlers(_transposed, aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input, refuse=_refuse),
    **handlers(_general, aten.convolution.default, refuse=_refuse),
}
