"""Tensors made from nothing but sizes and numbers: constants where all of them are static."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from edgecc.targets.onnx_common.builder import Builder
from edgecc.targets.onnx_common.lowering.handler import Handler, Handlers, Value, first, handlers

aten = torch.ops.aten


def _filled(value: float) -> Handler:
    def lower(b: Builder, node: fx.Node, **_: Any) -> Value:
        return fill(b, node, value)

    return Handler(lower)


def fill(b: Builder, node: fx.Node, value: Value) -> Value:
    """A tensor of the node's shape and dtype, every element `value`."""
    return b.expand(b.tensor(value, first(node).dtype), b.sizes_of(first(node)))


def _full(b: Builder, node: fx.Node, fill_value: Value, **_: Any) -> Value:
    return fill(b, node, fill_value)


def _fill(b: Builder, node: fx.Node, x: Value, value: Value) -> Value:
    return fill(b, node, value)


def _scalar(b: Builder, node: fx.Node, s: Value, **_: Any) -> Value:
    return b.tensor(s, first(node).dtype)


def _arange(b: Builder, node: fx.Node, start: Value = 0, step: Value = 1, end: Value = None, **_: Any) -> Value:
    """`start + i * step`; Range of a dynamic length counts in int64, because it adds up a float step."""
    to, (length,) = first(node).dtype, b.sizes_of(first(node))
    if all(isinstance(v, (int, float)) for v in (start, step, length)):
        return b.constant(torch.arange(length, dtype=torch.float64 if to.is_floating_point else torch.int64) * step + start, to, "range")
    zero, one = b.constant(0, torch.int64), b.constant(1, torch.int64)
    counted = b.cast(b.op("Range", zero, b.shapes.scalar(length), one, dtype=torch.int64, sizes=[length]), to)
    scaled = counted if step == 1 else b.op("Mul", counted, b.tensor(step, to))
    return scaled if isinstance(start, (int, float)) and start == 0 else b.op("Add", scaled, b.tensor(start, to))


def _evaluated(b: Builder, node: fx.Node, **arguments: Any) -> Value:
    """What PyTorch computes, as a constant."""
    assert callable(node.target)
    return b.constant(node.target(*node.args, **{**node.kwargs, "device": "cpu"}), first(node).dtype, node.name)


def _refuse_dynamic(node: fx.Node, opset: int) -> str | None:
    return "a dynamic size" if node.all_input_nodes else None


_ZEROS, _ONES = _filled(0), _filled(1)

HANDLERS: Handlers = {
    **dict.fromkeys((aten.zeros.default, aten.zeros_like.default, aten.new_zeros.default, aten.zero.default), _ZEROS),
    **dict.fromkeys((aten.empty.memory_format, aten.empty_like.default, aten.new_empty.default), _ZEROS),
    **dict.fromkeys((aten.ones.default, aten.ones_like.default, aten.new_ones.default), _ONES),
    **handlers(_full, aten.full.default, aten.full_like.default, aten.new_full.default),
    **handlers(_fill, aten.fill.Scalar, aten.fill.Tensor),
    **handlers(_scalar, aten.scalar_tensor.default),
    **handlers(_arange, aten.arange.default, aten.arange.start, aten.arange.start_step),
    **handlers(_evaluated, aten.linspace.default, aten.eye.default, aten.eye.m, refuse=_refuse_dynamic),
}
