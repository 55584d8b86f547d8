"""Sorting by ONNX TopK, which takes the lower index first of equal elements: a stable sort. NaN is sorted as the runtime does."""

from __future__ import annotations

import torch
from torch import fx

from edgecc.targets.onnx_common.builder import Builder, Size
from edgecc.targets.onnx_common.lowering.handler import Handlers, Value, handlers

aten = torch.ops.aten


def _top(b: Builder, node: fx.Node, x: Value, k: Size, dim: int = -1, largest: bool = True, sorted: bool = True) -> list[Value]:
    return top(b, x, k, dim, largest)


def top(b: Builder, x: Value, k: Size, dim: int, largest: bool) -> list[Value]:
    """The k largest or smallest along an axis, in order, and their int64 positions."""
    if not b.rank(x):
        return [x, b.constant(0, torch.int64)]
    through = torch.int32 if b.dtype(x) in (torch.bool, torch.int16) else b.dtype(x)
    axis, own = b.axis(dim, x), b.sizes(x)
    sizes = [*own[:axis], k, *own[axis + 1 :]]
    results = [(through, sizes), (torch.int64, sizes)]
    last = None if axis == b.rank(x) - 1 else axis
    values, positions = b.ops("TopK", b.cast(x, through), b.shapes.vector([k]), axis=last, largest=None if largest else 0, results=results)
    return [b.cast(values, b.dtype(x)), positions]


def _sort(b: Builder, node: fx.Node, x: Value, dim: int = -1, descending: bool = False, stable: bool | None = None) -> list[Value]:
    return top(b, x, b.sizes(x)[b.axis(dim, x)] if b.rank(x) else 1, dim, descending)


def _argsort(b: Builder, node: fx.Node, x: Value, dim: int = -1, descending: bool = False, stable: bool = False) -> Value:
    return _sort(b, node, x, dim, descending)[1]


HANDLERS: Handlers = {
    **handlers(_top, aten.topk.default),
    **handlers(_sort, aten.sort.default, aten.sort.stable),
    **handlers(_argsort, aten.argsort.default, aten.argsort.stable),
}
