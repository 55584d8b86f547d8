"""Tensors made from nothing but sizes and numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from edgecc.targets.tvm_cpu.lowering.arithmetic import result_dtype
from edgecc.targets.tvm_cpu.lowering.builder import Builder, Expr
from edgecc.targets.tvm_cpu.lowering.handler import Handler, Handlers, Value, handlers

aten = torch.ops.aten


def _filled(value: float) -> Handler:
    def lower(b: Builder, node: fx.Node, **_: Any) -> Expr:
        return fill(b, node, value)

    return Handler(lower)


def fill(b: Builder, node: fx.Node, value: Value) -> Expr:
    """A tensor of the node's shape and dtype, every element `value`."""
    to = result_dtype(node)
    return b.broadcast(b.tensor(value, to), b.shape(node))


def _full(b: Builder, node: fx.Node, fill_value: Value, **_: Any) -> Expr:
    return fill(b, node, fill_value)


def _fill(b: Builder, node: fx.Node, x: Expr, value: Value) -> Expr:
    return fill(b, node, value)


def _scalar(b: Builder, node: fx.Node, s: Value, **_: Any) -> Expr:
    return b.tensor(s, result_dtype(node))


def _arange(b: Builder, node: fx.Node, start: Value = 0, step: Value = 1, **_: Any) -> Expr:
    """`start + i * step`, in double precision inside for floats, as PyTorch accumulates it."""
    to = result_dtype(node)
    inside = "float64" if "float" in to else "int64"

    def element(first: Any, stride: Any, i: Any) -> Any:
        return (_as(first, inside) + i.astype(inside) * _as(stride, inside)).astype(to)

    return b.compute("arange", b.shape(node), element, start, step)


def _as(value: Any, to: str) -> Any:
    from tvm import tirx

    return tirx.const(value, to) if isinstance(value, (bool, int, float)) else value.astype(to)


def _linspace(b: Builder, node: fx.Node, start: float, end: float, steps: int, **_: Any) -> Expr:
    to = result_dtype(node)
    stride = (end - start) / (steps - 1) if steps > 1 else 0.0

    def element(i: Any) -> Any:
        from tvm import tirx

        from_start = tirx.const(start, "float64") + i.astype("float64") * stride
        from_end = tirx.const(end, "float64") - (steps - 1 - i).astype("float64") * stride
        return tirx.Select(i < (steps + 1) // 2, from_start, from_end).astype(to)

    return b.compute("linspace", b.shape(node), element)


def _eye(b: Builder, node: fx.Node, **_: Any) -> Expr:
    to = result_dtype(node)
    return b.compute("eye", b.shape(node), lambda i, j: (i == j).astype(to))


def _one_hot(b: Builder, node: fx.Node, x: Expr, num_classes: int = -1) -> Expr:
    return b.compute("one_hot", b.shape(node), lambda t, *index: (t(*index[:-1]) == index[-1]).astype("int64"), x)


def _refuse_linspace(node: fx.Node) -> str | None:
    numbers = all(isinstance(a, (int, float)) for a in node.args[:3])
    return None if numbers and node.meta["val"].is_floating_point() else "linspace with ends that are not constants, or of integers"


_ZEROS, _ONES = _filled(0), _filled(1)

HANDLERS: Handlers = {
    **dict.fromkeys((aten.zeros.default, aten.zeros_like.default, aten.new_zeros.default, aten.zero.default), _ZEROS),
    **dict.fromkeys((aten.empty.memory_format, aten.empty_like.default, aten.new_empty.default), _ZEROS),
    **dict.fromkeys((aten.ones.default, aten.ones_like.default, aten.new_ones.default), _ONES),
    **handlers(_full, aten.full.default, aten.full_like.default, aten.new_full.default),
    **handlers(_fill, aten.fill.Scalar, aten.fill.Tensor),
    **handlers(_scalar, aten.scalar_tensor.default),
    **handlers(_arange, aten.arange.default, aten.arange.start, aten.arange.start_step),
    **handlers(_linspace, aten.linspace.default, refuse=_refuse_linspace),
    **handlers(_eye, aten.eye.default, aten.eye.m),
    **handlers(_one_hot, aten.one_hot.default),
}
