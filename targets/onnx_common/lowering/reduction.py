"""Reductions over some or all axes: sums, means, extremes, moments, norms and running sums."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from edgecc.targeting.lowering import arguments_of, fake, refuse_different_ranks
from edgecc.targets.onnx_common.builder import Builder, Size
from edgecc.targets.onnx_common.lowering.handler import Handler, Handlers, Value, at_any_opset, first, handlers

aten = torch.ops.aten
Axes = int | Sequence[int] | None


def axes_of(b: Builder, dim: Axes, x: Value) -> list[int]:
    """The axes that a `dim` argument names; none or an empty list names all."""
    if dim is None or (isinstance(dim, (list, tuple)) and not dim):
        return list(range(b.rank(x)))
    if not b.rank(x):
        return []
    return [d % b.rank(x) for d in ([dim] if isinstance(dim, int) else dim)]


def reduce(b: Builder, kind: str, x: Value, dim: Axes, keepdim: bool) -> Value:
    return b.reduce(kind, x, axes_of(b, dim, x), keepdim)


def _reduction(kind: str) -> Handler:
    """A reduction in the dtype of the result: integers and bools are summed as int64."""

    def lower(b: Builder, node: fx.Node, x: Value, dim: Axes = None, keepdim: bool = False, dtype: Any = None) -> Value:
        return reduce(b, kind, b.cast(x, first(node).dtype), dim, keepdim)

    return Handler(lower)


def _extreme(kind: str) -> Handler:
    def lower(b: Builder, node: fx.Node, x: Value, dim: Axes = None, keepdim: bool = False) -> Value:
        return extreme(b, kind, x, dim, keepdim)

    return Handler(lower)


def extreme(b: Builder, kind: str, x: Value, dim: Axes, keepdim: bool) -> Value:
    """ReduceMax or ReduceMin; of dtypes that they lack through int32."""
    through = torch.int32 if b.dtype(x) in (torch.bool, torch.int16) else b.dtype(x)
    return b.cast(reduce(b, kind, b.cast(x, through), dim, keepdim), b.dtype(x))


def _truth(kind: str) -> Handler:
    def lower(b: Builder, node: fx.Node, x: Value, dim: Axes = None, keepdim: bool = False) -> Value:
        return b.cast(extreme(b, kind, b.cast(x, torch.bool), dim, keepdim), first(node).dtype)

    return Handler(lower)


def _position(kind: str) -> Handler:
    """The index of the first extreme; over all elements where no axis is given."""

    def lower(b: Builder, node: fx.Node, x: Value, dim: int | None = None, keepdim: bool = False) -> Value:
        return position(b, kind, x, dim, b.sizes_of(first(node)))

    return Handler(lower)


def position(b: Builder, kind: str, x: Value, dim: int | None, sizes: list[Size]) -> Value:
    """ArgMax or ArgMin, int64, in the shape `sizes`."""
    data = b.cast(x, torch.int32) if b.dtype(x) in (torch.bool, torch.int16) else x
    if dim is None or b.rank(data) == 0:
        data, dim = b.reshape(data, [b.count(data, range(b.rank(data)))]), 0
    axis = dim % b.rank(data)
    kept = len(sizes) == b.rank(data)
    own = [1 if k == axis else s for k, s in enumerate(b.sizes(data)) if kept or k != axis]
    found = b.op(kind, data, axis=axis or None, keepdims=None if kept else 0, dtype=torch.int64, sizes=own)
    return b.reshape(found, sizes)


def _extreme_and_position(kind: str, index: str) -> Handler:
    def lower(b: Builder, node: fx.Node, x: Value, dim: int, keepdim: bool = False) -> list[Value]:
        return [extreme(b, kind, x, dim, keepdim), position(b, index, x, dim, b.sizes_of(node.meta["val"][1]))]

    return Handler(lower)


def number(b: Builder, size: Size, to: torch.dtype) -> Value:
    """A size as a tensor of rank 0 or 1 that broadcasts."""
    return b.constant(size, to) if isinstance(size, (int, float)) else b.cast(b.shapes.one(size), to)


# -- moments


def variance(b: Builder, x: Value, axes: Sequence[int], correction: float, keep: bool) -> tuple[Value, Value]:
    """Variance and mean [.., 1, ..] in two passes, which does not cancel; divided by `count - correction`, at least 0."""
    mean = b.reduce("ReduceMean", x, axes, True)
    deviation = b.op("Sub", x, mean)
    square = b.op("Mul", deviation, deviation)
    if correction == 0:
        return b.reduce("ReduceMean", square, axes, keep), mean
    count = b.count(x, axes)
    freedom = max(count - correction, 0) if isinstance(count, int) else count - correction
    divisor = number(b, freedom, b.dtype(x))
    return b.op("Div", b.reduce("ReduceSum", square, axes, keep), divisor), mean


def _moments(*, root: bool, with_mean: bool) -> Handler:
    def lower(
        b: Builder, node: fx.Node, x: Value, dim: Axes = None, correction: float | None = None, keepdim: bool = False, unbiased: bool = True
    ) -> Any:
        freedom = correction if correction is not None else int(unbiased)
        found, mean = variance(b, x, axes_of(b, dim, x), freedom, keepdim)
        spread = b.op("Sqrt", found) if root else found
        spread = b.reshape(spread, b.sizes_of(first(node)))
        return [spread, b.reshape(mean, b.sizes_of(node.meta["val"][1]))] if with_mean else spread

    return Handler(lower, _refuse_scalar)


def _refuse_scalar(node: fx.Node, opset: int) -> str | None:
    return "a moment of a tensor of rank 0" if not fake(arguments_of(node)["x"]).shape else None


# -- norms


def _norm(b: Builder, node: fx.Node, x: Value, ord: float = 2, dim: Axes = None, keepdim: bool = False, dtype: Any = None) -> Value:
    return norm(b, b.cast(x, first(node).dtype), float(ord), dim, keepdim)


def _p_norm(b: Builder, node: fx.Node, x: Value, p: float | None = 2, dim: Axes = None, keepdim: bool = False, dtype: Any = None) -> Value:
    return norm(b, b.cast(x, first(node).dtype), 2.0 if p is None else float(p), dim, keepdim)


def norm(b: Builder, x: Value, order: float, dim: Axes, keepdim: bool) -> Value:
    """The vector norm of this order over the axes."""
    if order == 0:
        return reduce(b, "ReduceSum", b.cast(b.cast(x, torch.bool), b.dtype(x)), dim, keepdim)
    if order in (1, 2):
        return reduce(b, f"ReduceL{int(order)}", x, dim, keepdim)
    size = b.op("Abs", x)
    if math.isinf(order):
        return reduce(b, "ReduceMax" if order > 0 else "ReduceMin", size, dim, keepdim)
    return b.binary("Pow", reduce(b, "ReduceSum", b.binary("Pow", size, order), dim, keepdim), 1 / order)


def _log_sum_exp(b: Builder, node: fx.Node, x: Value, dim: Axes, keepdim: bool = False) -> Value:
    """`m + log(sum(exp(x - m)))` with the largest element m, 0 in place of an infinite one."""
    data = b.cast(x, first(node).dtype)
    axes = axes_of(b, dim, data)
    if not axes:
        return data
    largest = b.reduce("ReduceMax", data, axes, True)
    finite = b.op("Where", b.op("IsInf", largest, dtype=torch.bool), b.constant(0, b.dtype(data)), largest, dtype=b.dtype(data))
    total = b.reduce("ReduceSum", b.op("Exp", b.op("Sub", data, finite)), axes, True)
    return b.reshape(b.op("Add", b.op("Log", total), finite), b.sizes_of(first(node)))


def _count_nonzero(b: Builder, node: fx.Node, x: Value, dim: Axes = None) -> Value:
    return reduce(b, "ReduceSum", b.cast(b.cast(x, torch.bool), torch.int64), dim, False)


def _cosine_similarity(b: Builder, node: fx.Node, x1: Value, x2: Value, dim: int = 1, eps: float = 1e-8) -> Value:
    left, right = (b.op("Div", x, b.binary("Max", norm(b, x, 2, dim, True), eps)) for x in (x1, x2))
    return reduce(b, "ReduceSum", b.op("Mul", left, right), dim, False)


def _running_sum(b: Builder, node: fx.Node, x: Value, dim: int, dtype: Any = None) -> Value:
    """In the dtype of the result: integers and bools accumulate as int64."""
    data = b.cast(x, first(node).dtype)
    return b.op("CumSum", data, b.constant(b.axis(dim, data), torch.int64), sizes=b.sizes(data)) if b.rank(data) else data


_SUM, _MEAN, _PROD = _reduction("ReduceSum"), _reduction("ReduceMean"), _reduction("ReduceProd")
_ANY, _ALL, _MAX, _MIN = _truth("ReduceMax"), _truth("ReduceMin"), _extreme("ReduceMax"), _extreme("ReduceMin")
_VAR, _STD = _moments(root=False, with_mean=False), _moments(root=True, with_mean=False)
_VAR_MEAN, _STD_MEAN = _moments(root=False, with_mean=True), _moments(root=True, with_mean=True)

HANDLERS: Handlers = {
    **dict.fromkeys((aten.sum.default, aten.sum.dim_IntList), _SUM),
    **dict.fromkeys((aten.mean.default, aten.mean.dim), _MEAN),
    **dict.fromkeys((aten.prod.default, aten.prod.dim_int), _PROD),
    **dict.fromkeys((aten.any.default, aten.any.dim, aten.any.dims), _ANY),
    **dict.fromkeys((aten.all.default, aten.all.dim, aten.all.dims), _ALL),
    **dict.fromkeys((aten.amax.default, aten.max.default), _MAX),
    **dict.fromkeys((aten.amin.default, aten.min.default), _MIN),
    aten.argmax.default: _position("ArgMax"),
    aten.argmin.default: _position("ArgMin"),
    aten.max.dim: _extreme_and_position("ReduceMax", "ArgMax"),
    aten.min.dim: _extreme_and_position("ReduceMin", "ArgMin"),
    **dict.fromkeys((aten.var.default, aten.var.dim, aten.var.correction), _VAR),
    **dict.fromkeys((aten.std.default, aten.std.dim, aten.std.correction), _STD),
    **dict.fromkeys((aten.var_mean.default, aten.var_mean.dim, aten.var_mean.correction), _VAR_MEAN),
    **dict.fromkeys((aten.std_mean.default, aten.std_mean.dim, aten.std_mean.correction), _STD_MEAN),
    **handlers(_norm, aten.linalg_vector_norm.default),
    **handlers(_p_norm, aten.norm.Scalar, aten.norm.ScalarOpt_dim, aten.norm.ScalarOpt_dim_dtype),
    **handlers(_log_sum_exp, aten.logsumexp.default),
    **handlers(_count_nonzero, aten.count_nonzero.default, aten.count_nonzero.dim_IntList),
    **handlers(_cosine_similarity, aten.cosine_similarity.default, refuse=at_any_opset(refuse_different_ranks)),
    **handlers(_running_sum, aten.cumsum.default),
}
