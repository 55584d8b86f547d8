"""Parts of tensors along an axis: slice, select, split; and the writes of such parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from edgecc.targets.tvm_cpu.lowering.arithmetic import result_dtype
from edgecc.targets.tvm_cpu.lowering.builder import Builder, Expr, axis_of, same_shape, shape
from edgecc.targets.tvm_cpu.lowering.handler import Handlers, Value, handlers

aten = torch.ops.aten


def slice_axis(b: Builder, x: Expr, axis: int, start: Any, sizes: Sequence[Any], step: int = 1) -> Expr:
    """`x[start::step]` along `axis`, with the result's sizes. `start` counts from the front and may be symbolic."""
    whole = shape(x)
    if same_shape(whole, sizes):
        return x
    if all(isinstance(v, int) for v in (start, sizes[axis], whole[axis])):
        return b.op("strided_slice", x, [axis], [start], [start + (sizes[axis] - 1) * step + 1], [step])

    def element(t: Any, begin: Any, *index: Any) -> Any:
        at = list(index)
        at[axis] = at[axis] * step + begin
        return t(*at)

    return b.compute("slice", sizes, element, x, start)


def from_front(position: Any, size: Any) -> Any:
    """A position that counts from the end where it is negative, as one from the front, at least 0."""
    from tvm import tirx

    if isinstance(position, int) and position >= 0:
        return min(position, size) if isinstance(size, int) else position
    if isinstance(position, int) and isinstance(size, int):
        return max(position + size, 0)
    if isinstance(position, int):
        return tirx.max(position + size, 0)
    return tirx.Select(position < 0, tirx.max(position + size, 0), position)


def _slice(b: Builder, node: fx.Node, x: Expr, dim: int = 0, start: Value = None, end: Value = None, step: int = 1) -> Expr:
    axis = axis_of(dim, x)
    return slice_axis(b, x, axis, 0 if start is None else from_front(start, shape(x)[axis]), b.shape(node), step)


def _narrow(b: Builder, node: fx.Node, x: Expr, dim: int, start: Value, length: Value) -> Expr:
    return _slice(b, node, x, dim, start)


def _select(b: Builder, node: fx.Node, x: Expr, dim: int, index: Value) -> Expr:
    return select(b, x, axis_of(dim, x), index, b.shape(node))


def select(b: Builder, x: Expr, axis: int, index: Value, sizes: Sequence[Any]) -> Expr:
    """One position along `axis`, which the result no longer has."""
    kept = [*sizes[:axis], 1, *sizes[axis:]]
    return b.reshape(slice_axis(b, x, axis, from_front(index, shape(x)[axis]), kept), sizes)


def _split(b: Builder, node: fx.Node, x: Expr, dim: int = 0, **_: Any) -> list[Expr]:
    """Consecutive parts, whose sizes the tracer knows."""
    axis, start, parts = axis_of(dim, x), 0, []
    for part in node.meta["val"]:
        sizes = b.shape(part)
        parts.append(slice_axis(b, x, axis, start, sizes))
        start = start + sizes[axis]
    return parts


def _unbind(b: Builder, node: fx.Node, x: Expr, dim: int = 0) -> list[Expr]:
    return [select(b, x, axis_of(dim, x), i, b.shape(part)) for i, part in enumerate(node.meta["val"])]


def _slice_scatter(
    b: Builder, node: fx.Node, x: Expr, src: Expr, dim: int = 0, start: Value = None, end: Value = None, step: int = 1
) -> Expr:
    """x with `src` in place of `x[start::step]` along `dim`."""
    from tvm import tirx

    axis = axis_of(dim, x)
    first = 0 if start is None else from_front(start, shape(x)[axis])

    def element(old: Any, new: Any, begin: Any, *index: Any) -> Any:
        at, offset = list(index), index[axis] - begin
        at[axis] = tirx.floordiv(offset, step)
        inside = tirx.all(offset >= 0, tirx.floormod(offset, step) == 0, at[axis] < new.shape[axis])
        return tirx.if_then_else(inside, new(*at), old(*index))

    return b.compute("slice_scatter", shape(x), element, x, b.cast(src, result_dtype(node)), first)


def _select_scatter(b: Builder, node: fx.Node, x: Expr, src: Expr, dim: int, index: Value) -> Expr:
    from tvm import tirx

    axis = axis_of(dim, x)

    def element(old: Any, new: Any, position: Any, *at: Any) -> Any:
        return tirx.if_then_else(at[axis] == position, new(*at[:axis], *at[axis + 1 :]), old(*at))

    return b.compute("select_scatter", shape(x), element, x, b.cast(src, result_dtype(node)), from_front(index, shape(x)[axis]))


def _copy(b: Builder, node: fx.Node, x: Expr, src: Expr, non_blocking: bool = False) -> Expr:
    return b.broadcast(b.cast(src, result_dtype(node)), shape(x))


def _unfold(b: Builder, node: fx.Node, x: Expr, dimension: int, size: int, step: int) -> Expr:
    """Sliding windows of `size` along an axis, the position in the window last."""
    axis = axis_of(dimension, x)

    def element(t: Any, *index: Any) -> Any:
        at = list(index[:-1])
        at[axis] = at[axis] * step + index[-1]
        return t(*at)

    return b.compute("unfold", b.shape(node), element, x)


HANDLERS: Handlers = {
    **handlers(_slice, aten.slice.Tensor),
    **handlers(_narrow, aten.narrow.default),
    **handlers(_select, aten.select.int),
    **handlers(_split, aten.split.Tensor, aten.split.sizes, aten.split_with_sizes.default, aten.chunk.default),
    **handlers(_split, aten.unsafe_split.Tensor, aten.unsafe_chunk.default, aten.tensor_split.sections, aten.tensor_split.indices),
    **handlers(_unbind, aten.unbind.int),
    **handlers(_slice_scatter, aten.slice_scatter.default),
    **handlers(_select_scatter, aten.select_scatter.default),
    **handlers(_copy, aten.copy.default),
    **handlers(_unfold, aten.unfold.default),
}
