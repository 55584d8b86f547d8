"""Parts of tensors along an axis: slice, select, split; and the writes of such parts."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from edgecc.ir.fake import size_expression
from edgecc.targeting.lowering import arguments_of, fake
from edgecc.targets.onnx_common.builder import Builder
from edgecc.targets.onnx_common.lowering.handler import Handlers, Value, first, handlers

aten = torch.ops.aten


def _slice(b: Builder, node: fx.Node, x: Value, dim: int = 0, start: Value = None, end: Value = None, step: int = 1) -> Value:
    """ONNX Slice counts a negative position from the end and limits both to the axis, as PyTorch does."""
    behind = end is None or (isinstance(end, int) and end >= 2**62)
    return b.slice(x, b.axis(dim, x), 0 if start is None else start, None if behind else end, b.sizes_of(first(node)), step)


def _narrow(b: Builder, node: fx.Node, x: Value, dim: int, start: Value, length: Value) -> Value:
    axis, size = b.axis(dim, x), size_expression(length)
    first_one = size_expression(start)
    if isinstance(first_one, int) and first_one < 0:
        first_one = first_one + b.sizes(x)[axis]
    return b.slice(x, axis, first_one, first_one + size, b.sizes_of(first(node)))


def _select(b: Builder, node: fx.Node, x: Value, dim: int, index: Value) -> Value:
    return b.gather(x, b.tensor(index, torch.int64), b.axis(dim, x))


def _split(b: Builder, node: fx.Node, x: Value, dim: int = 0, **_: Any) -> list[Value]:
    """Consecutive parts, whose sizes the tracer knows."""
    axis, parts = b.axis(dim, x), [b.sizes_of(part) for part in node.meta["val"]]
    if len(parts) == 1:
        return [x]
    lengths = b.shapes.vector([sizes[axis] for sizes in parts])
    return b.ops("Split", x, lengths, axis=axis or None, results=[(b.dtype(x), sizes) for sizes in parts])


def _unbind(b: Builder, node: fx.Node, x: Value, dim: int = 0) -> list[Value]:
    return [b.gather(x, b.constant(i, torch.int64), b.axis(dim, x)) for i in range(len(node.meta["val"]))]


# -- writes


def _slice_scatter(
    b: Builder, node: fx.Node, x: Value, src: Value, dim: int = 0, start: Value = None, end: Value = None, step: int = 1
) -> Value:
    """x with `src` in place of `x[start:end:step]` along `dim`."""
    axis, to = b.axis(dim, x), first(node).dtype
    sizes, source = b.sizes(x), b.cast(src, to)
    if isinstance(sizes[axis], int) and all(v is None or isinstance(v, int) for v in (start, end)):
        return _written(b, b.cast(x, to), source, axis, range(sizes[axis])[slice(start, end, step)])
    begin = 0 if start is None else size_expression(start)
    begin = begin + sizes[axis] if isinstance(begin, int) and begin < 0 else begin
    after = begin + b.sizes(source)[axis]
    parts = [source]
    if begin != 0:
        parts.insert(0, b.slice(x, axis, 0, begin, [*sizes[:axis], begin, *sizes[axis + 1 :]]))
    if (rest := sizes[axis] - after) != 0:
        parts.append(b.slice(x, axis, after, None, [*sizes[:axis], rest, *sizes[axis + 1 :]]))
    return b.concat(parts, axis)


def _written(b: Builder, x: Value, source: Value, axis: int, places: range) -> Value:
    """x with the slices of `source` at these places: both joined, and from them a constant choice."""
    if len(places) == b.sizes(x)[axis] and places.step == 1:
        return source
    choice = torch.arange(b.sizes(x)[axis])
    choice[list(places)] = len(choice) + torch.arange(len(places))
    return b.gather(b.concat([x, source], axis), b.constant(choice, torch.int64, "places"), axis)


def _select_scatter(b: Builder, node: fx.Node, x: Value, src: Value, dim: int, index: int) -> Value:
    axis, to = b.axis(dim, x), first(node).dtype
    place = range(b.sizes(x)[axis])[index]
    return _written(b, b.cast(x, to), b.unsqueeze(b.cast(src, to), [axis]), axis, range(place, place + 1))


def _refuse_slice_scatter(node: fx.Node, opset: int) -> str | None:
    arguments = arguments_of(node)
    size = fake(arguments["x"]).shape[arguments["dim"]]
    static = isinstance(size, int) and all(v is None or isinstance(v, int) for v in (arguments["start"], arguments["end"]))
    return None if static or arguments["step"] == 1 else "a write with a step along a dynamic axis"


def _refuse_select_scatter(node: fx.Node, opset: int) -> str | None:
    arguments = arguments_of(node)
    static = isinstance(fake(arguments["x"]).shape[arguments["dim"]], int) and isinstance(arguments["index"], int)
    return None if static else "a write at a position along a dynamic axis"


def _unfold(b: Builder, node: fx.Node, x: Value, dimension: int, size: int, step: int) -> Value:
    """Sliding windows of `size` along an axis, the position in the window last."""
    axis, rank = b.axis(dimension, x), b.rank(x)
    windows = first(node).shape[axis]
    places = torch.arange(windows)[:, None] * step + torch.arange(size)
    gathered = b.gather(x, b.constant(places, torch.int64, "windows"), axis)
    return b.transpose(gathered, [*range(axis + 1), *range(axis + 2, rank + 1), axis + 1])


def _refuse_unfold(node: fx.Node, opset: int) -> str | None:
    arguments = arguments_of(node)
    return "windows along a dynamic axis" if isinstance(fake(arguments["x"]).shape[arguments["dimension"]], torch.SymInt) else None


HANDLERS: Handlers = {
    **handlers(_slice, aten.slice.Tensor),
    **handlers(_narrow, aten.narrow.default),
    **handlers(_select, aten.select.int),
    **handlers(_split, aten.split.Tensor, aten.split.sizes, aten.split_with_sizes.default, aten.chunk.default),
    **handlers(_split, aten.unsafe_split.Tensor, aten.unsafe_chunk.default, aten.tensor_split.sections, aten.tensor_split.indices),
    **handlers(_unbind, aten.unbind.int),
    **handlers(_slice_scatter, aten.slice_scatter.default, refuse=_refuse_slice_scatter),
    **handlers(_select_scatter, aten.select_scatter.default, refuse=_refuse_select_scatter),
    **handlers(_unfold, aten.unfold.default, refuse=_refuse_unfold),
}
