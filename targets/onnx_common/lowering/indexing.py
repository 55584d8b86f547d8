"""Reads and writes at computed indices. ONNX counts a negative index from the end, as PyTorch does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from edgecc.targeting.lowering import arguments_of, fake, refuse_index_put
from edgecc.targets.onnx_common.builder import Builder, Size
from edgecc.targets.onnx_common.lowering.arithmetic import where
from edgecc.targets.onnx_common.lowering.comparison import common_dtype
from edgecc.targets.onnx_common.lowering.handler import Handler, Handlers, Value, at_any_opset, first, handlers
from edgecc.targets.onnx_common.sizes import broadcast

aten = torch.ops.aten
_REDUCTIONS = {"sum": "add", "add": "add", "prod": "mul", "multiply": "mul", "amax": "max", "amin": "min"}


def _embedding(b: Builder, node: fx.Node, weight: Value, indices: Value, **_: Any) -> Value:
    return b.gather(weight, indices, 0)


def _index_select(b: Builder, node: fx.Node, x: Value, dim: int, index: Value) -> Value:
    return b.gather(x, index, b.axis(dim, x))


def _gather(b: Builder, node: fx.Node, x: Value, dim: int, index: Value, sparse_grad: bool = False) -> Value:
    return b.op("GatherElements", x, index, axis=b.axis(dim, x) or None, sizes=b.sizes(index)) if b.rank(x) else x


def _index(b: Builder, node: fx.Node, x: Value, indices: list[Value | None]) -> Value:
    """NumPy's integer indexing: the index tensors broadcast to one shape, which stands where the indexed axes were.

    It stands in front where the indexed axes are not neighbours. One index is Gather; several are GatherND over the
    indexed axes, moved to the front.
    """
    axes = [d for d, i in enumerate(indices) if i is not None]
    tensors = [indices[d] for d in axes]
    if len(axes) == 1:
        return b.gather(x, tensors[0], axes[0])
    others = [k for k in range(b.rank(x)) if k not in axes]
    turned, places = b.transpose(x, [*axes, *others]), _places(b, tensors)
    shared = b.sizes(places)[:-1]
    found = b.op("GatherND", turned, places, sizes=[*shared, *b.sizes(turned)[len(axes) :]])
    lead = axes[0] if axes == list(range(axes[0], axes[0] + len(axes))) else 0
    extra, rank = len(shared), len(shared) + len(others)
    return b.transpose(found, [*range(extra, extra + lead), *range(extra), *range(extra + lead, rank)])


def _places(b: Builder, tensors: Sequence[Value]) -> Value:
    """Index tensors, broadcast to one shape, as positions [.., n]."""
    sizes = broadcast([b.sizes(t) for t in tensors])
    return b.concat([b.unsqueeze(b.expand(b.cast(t, torch.int64), sizes), [len(sizes)]) for t in tensors], len(sizes))


def _refuse_index(node: fx.Node, opset: int) -> str | None:
    indices = [fake(i) for i in arguments_of(node)["indices"] if i is not None]
    if any(i.dtype in (torch.bool, torch.uint8) for i in indices):
        return "indexing with a mask, whose result has a size that depends on the data"
    return None if indices else "indexing without an index"


# -- writes


def _scatter(b: Builder, node: fx.Node, x: Value, dim: int, index: Value, src: Value = None, value: Value = None, **options: Any) -> Value:
    """x with elements of `src` written, added, ... at `index` along an axis."""
    to, sizes = first(node).dtype, b.sizes(index)
    source = b.tensor(src if value is None else value, to)
    source = b.expand(source, sizes) if b.rank(source) == 0 else _head(b, source, sizes)
    reduce = "add" if node.target is aten.scatter_add.default else options.get("reduce")
    how = _REDUCTIONS[reduce] if reduce else None
    return b.op("ScatterElements", x, index, source, axis=b.axis(dim, x) or None, reduction=how, sizes=b.sizes(x))


def _head(b: Builder, x: Value, sizes: Sequence[Size]) -> Value:
    """The first elements of every axis: PyTorch takes a source that is larger than the index."""
    for axis, size in enumerate(sizes):
        x = b.slice(x, axis, 0, size, [*b.sizes(x)[:axis], size, *b.sizes(x)[axis + 1 :]])
    return x


def _refuse_scatter(node: fx.Node, opset: int) -> str | None:
    arguments = arguments_of(node)
    reduce = arguments.get("reduce")
    if reduce == "mean" or arguments.get("include_self") is False:
        return "scatter_reduce with reduce='mean' or include_self=False"
    if reduce in ("amax", "amin") and opset < 18:
        return "a scattered maximum or minimum needs opset 18"
    return None if len(fake(arguments["x"]).shape) else "scatter into a tensor of rank 0"


def _index_put(b: Builder, node: fx.Node, x: Value, indices: list[Value | None], values: Value, accumulate: bool = False) -> Value:
    """x with `values` written, or added, at integer indices; ScatterND over the indexed axes, moved to the front."""
    axes = [d for d, i in enumerate(indices) if i is not None]
    tensors = [indices[d] for d in axes]
    to = first(node).dtype
    if b.dtype(tensors[0]) is torch.bool:
        mask = b.reshape(tensors[0], b.sizes(tensors[0]) + [1] * (b.rank(x) - b.rank(tensors[0])))
        return where(b, mask, b.cast(values, to), x)
    others = [k for k in range(b.rank(x)) if k not in axes]
    order = [*axes, *others]
    turned, places = b.transpose(x, order), _places(b, tensors)
    shared, lead = b.sizes(places)[:-1], axes[0]
    rest = [b.sizes(x)[k] for k in others]
    source = b.expand(b.cast(values, to), [*rest[:lead], *shared, *rest[lead:]])
    extra, rank = len(shared), len(shared) + len(others)
    source = b.transpose(source, [*range(lead, lead + extra), *range(lead), *range(lead + extra, rank)])
    written = b.op("ScatterND", turned, places, source, reduction="add" if accumulate else None, sizes=b.sizes(turned))
    return b.transpose(written, [order.index(k) for k in range(b.rank(x))])


def _bucketize(b: Builder, node: fx.Node, x: Value, boundaries: Value, out_int32: bool = False, right: bool = False) -> Value:
    """How many of the sorted boundaries lie below x, or at it with `right`."""
    to = common_dtype(node.args[0], node.args[1])
    kind = "LessOrEqual" if right else "Less"
    passed = b.op(kind, b.cast(boundaries, to), b.unsqueeze(b.cast(x, to), [b.rank(x)]), dtype=torch.bool)
    return b.reduce("ReduceSum", b.cast(passed, first(node).dtype), [b.rank(x)], False)


def _one_hot(b: Builder, node: fx.Node, x: Value, num_classes: int = -1) -> Value:
    values = b.constant([0, 1], torch.int64)
    return b.op("OneHot", x, b.constant(num_classes, torch.int64), values, dtype=torch.int64, sizes=[*b.sizes(x), num_classes])


HANDLERS: Handlers = {
    **handlers(_embedding, aten.embedding.default),
    **handlers(_index_select, aten.index_select.default),
    **handlers(_gather, aten.gather.default),
    **handlers(_index, aten.index.Tensor, aten._unsafe_index.Tensor, refuse=_refuse_index),
    **handlers(_scatter, aten.scatter.src, aten.scatter.value, aten.scatter.reduce, aten.scatter.value_reduce, refuse=_refuse_scatter),
    **handlers(_scatter, aten.scatter_reduce.two, refuse=_refuse_scatter),
    **handlers(_index_put, aten.index_put.default, aten._unsafe_index_put.default, refuse=at_any_opset(refuse_index_put)),
    **handlers(_bucketize, aten.bucketize.Tensor),
    **handlers(_one_hot, aten.one_hot.default),
    aten.scatter_add.default: Handler(_scatter, _refuse_scatter),
}
