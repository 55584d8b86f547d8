"""Reductions over some or all axes: sums, means, extremes, moments and norms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from edgecc.targeting.lowering import arguments_of, fake, refuse_different_ranks
from edgecc.targets.tvm_cpu.lowering.arithmetic import result_dtype
from edgecc.targets.tvm_cpu.lowering.builder import Builder, Expr, dtype, rank, shape
from edgecc.targets.tvm_cpu.lowering.handler import Handler, Handlers, handlers

aten = torch.ops.aten
Axes = int | Sequence[int] | None


def axes_of(dim: Axes, x: Expr) -> list[int]:
    """The axes that a `dim` argument names; none or an empty list names all."""
    if dim is None or (isinstance(dim, (list, tuple)) and not dim):
        return list(range(rank(x)))
    if not rank(x):
        return []
    return [d % rank(x) for d in ([dim] if isinstance(dim, int) else dim)]


def reduce(b: Builder, name: str, x: Expr, dim: Axes, keepdim: bool) -> Expr:
    """A Relax reduction; of a tensor of rank 0 it is the tensor."""
    axes = axes_of(dim, x)
    return b.op(name, x, axes, keepdim) if axes else x


def _reduction(name: str) -> Handler:
    """A reduction in the dtype of the result: integers and bools are summed as int64."""

    def lower(b: Builder, node: fx.Node, x: Expr, dim: Axes = None, keepdim: bool = False, dtype: Any = None) -> Expr:
        return reduce(b, name, b.cast(x, result_dtype(node)), dim, keepdim)

    return Handler(lower)


def _extreme(name: str) -> Handler:
    def lower(b: Builder, node: fx.Node, x: Expr, dim: Axes = None, keepdim: bool = False) -> Expr:
        return extreme(b, name, x, dim, keepdim)

    return Handler(lower)


def extreme(b: Builder, name: str, x: Expr, dim: Axes, keepdim: bool) -> Expr:
    """`max` or `min`; of bools through int8."""
    if dtype(x) == "bool":
        return b.cast(reduce(b, name, b.cast(x, "int8"), dim, keepdim), "bool")
    return reduce(b, name, x, dim, keepdim)


def _truth(name: str) -> Handler:
    def lower(b: Builder, node: fx.Node, x: Expr, dim: Axes = None, keepdim: bool = False) -> Expr:
        return b.cast(extreme(b, name, b.cast(x, "bool"), dim, keepdim), result_dtype(node))

    return Handler(lower)


def _position(name: str) -> Handler:
    """The index of the first extreme; over all elements where no axis is given."""

    def lower(b: Builder, node: fx.Node, x: Expr, dim: int | None = None, keepdim: bool = False) -> Expr:
        return position(b, name, x, dim, b.shape(node))

    return Handler(lower)


def position(b: Builder, name: str, x: Expr, dim: int | None, sizes: list[Any]) -> Expr:
    """`argmax` or `argmin` as int64, in the shape `sizes`."""
    data = b.cast(x, "int8") if dtype(x) == "bool" else x
    if dim is None or rank(data) == 0:
        count = math.prod(shape(data)) if all(isinstance(s, int) for s in shape(data)) else -1
        data, dim = b.op("reshape", data, [count]), 0
    return b.reshape(b.cast(b.op(name, data, dim % rank(data), False), "int64"), sizes)


def _extreme_and_position(value: str, index: str) -> Handler:
    def lower(b: Builder, node: fx.Node, x: Expr, dim: int, keepdim: bool = False) -> list[Expr]:
        return [extreme(b, value, x, dim, keepdim), position(b, index, x, dim, b.shape(node.meta["val"][1]))]

    return Handler(lower)


# -- moments


def _variance(b: Builder, x: Expr, dim: Axes, correction: float, keepdim: bool) -> tuple[Expr, Expr]:
    """Variance and mean in two passes; the sum of squares is divided by `count - correction`, at least 0."""
    axes = axes_of(dim, x)
    mean = b.op("mean", x, axes, True)
    deviation = b.op("subtract", x, mean)
    total = b.op("sum", b.op("multiply", deviation, deviation), axes, keepdim)
    count: Any = 1
    for axis in axes:
        count = count * shape(x)[axis]
    return b.op("divide", total, _freedom(b, count, correction, dtype(x))), mean


def _freedom(b: Builder, count: Any, correction: float, to: str) -> Expr:
    if isinstance(count, int):
        return b.constant(max(count - correction, 0), to)
    return b.binary("maximum", b.binary("subtract", b.tensor(count, to), correction), 0)


def _moments(*, root: bool, with_mean: bool) -> Handler:
    def lower(
        b: Builder, node: fx.Node, x: Expr, dim: Axes = None, correction: float | None = None, keepdim: bool = False, unbiased: bool = True
    ) -> Any:
        freedom = correction if correction is not None else int(unbiased)
        variance, mean = _variance(b, x, dim, freedom, keepdim)
        spread = b.op("sqrt", variance) if root else variance
        return [spread, mean if keepdim else b.reshape(mean, b.shape(node.meta["val"][1]))] if with_mean else spread

    return Handler(lower, _refuse_scalar)


def _refuse_scalar(node: fx.Node) -> str | None:
    return "a moment of a tensor of rank 0" if not fake(arguments_of(node)["x"]).shape else None


# -- norms


def _norm(b: Builder, node: fx.Node, x: Expr, ord: float = 2, dim: Axes = None, keepdim: bool = False, dtype: Any = None) -> Expr:
    return norm(b, b.cast(x, result_dtype(node)), float(ord), dim, keepdim)


def _p_norm(b: Builder, node: fx.Node, x: Expr, p: float | None = 2, dim: Axes = None, keepdim: bool = False, dtype: Any = None) -> Expr:
    return norm(b, b.cast(x, result_dtype(node)), 2.0 if p is None else float(p), dim, keepdim)


def norm(b: Builder, x: Expr, order: float, dim: Axes, keepdim: bool) -> Expr:
    """The vector norm of this order over the axes."""
    if order == 0:
        return reduce(b, "sum", b.cast(b.binary("not_equal", x, 0), dtype(x)), dim, keepdim)
    if order == 2:
        return b.op("sqrt", reduce(b, "sum", b.op("multiply", x, x), dim, keepdim))
    size = b.op("abs", x)
    if math.isinf(order):
        return reduce(b, "max" if order > 0 else "min", size, dim, keepdim)
    if order == 1:
        return reduce(b, "sum", size, dim, keepdim)
    return b.binary("power", reduce(b, "sum", b.binary("power", size, order), dim, keepdim), 1 / order)


def _log_sum_exp(b: Builder, node: fx.Node, x: Expr, dim: Axes, keepdim: bool = False) -> Expr:
    """`m + log(sum(exp(x - m)))` with the largest element m, 0 in place of an infinite one."""
    data = b.cast(x, result_dtype(node))
    axes = axes_of(dim, data)
    if not axes:
        return data
    largest = b.op("max", data, axes, True)
    finite = b.op("where", b.op("isinf", largest), b.constant(0, dtype(data)), largest)
    total = b.op("sum", b.op("exp", b.op("subtract", data, finite)), axes, True)
    return b.reshape(b.op("add", b.op("log", total), finite), b.shape(node))


def _count_nonzero(b: Builder, node: fx.Node, x: Expr, dim: Axes = None) -> Expr:
    return reduce(b, "sum", b.cast(b.cast(x, "bool"), "int64"), dim, False)


def _cosine_similarity(b: Builder, node: fx.Node, x1: Expr, x2: Expr, dim: int = 1, eps: float = 1e-8) -> Expr:
    left, right = (_unit(b, x, dim, eps) for x in (x1, x2))
    return b.op("sum", b.op("multiply", left, right), [dim % len(fake(node.args[0]).shape)], False)


def _unit(b: Builder, x: Expr, dim: int, eps: float) -> Expr:
    return b.op("divide", x, b.binary("maximum", norm(b, x, 2, dim, True), eps))


_SUM, _MEAN, _PROD = _reduction("sum"), _reduction("mean"), _reduction("prod")
_ANY, _ALL, _MAX, _MIN = _truth("max"), _truth("min"), _extreme("max"), _extreme("min")
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
    aten.argmax.default: _position("argmax"),
    aten.argmin.default: _position("argmin"),
    aten.max.dim: _extreme_and_position("max", "argmax"),
    aten.min.dim: _extreme_and_position("min", "argmin"),
    **dict.fromkeys((aten.var.default, aten.var.dim, aten.var.correction), _VAR),
    **dict.fromkeys((aten.std.default, aten.std.dim, aten.std.correction), _STD),
    **dict.fromkeys((aten.var_mean.default, aten.var_mean.dim, aten.var_mean.correction), _VAR_MEAN),
    **dict.fromkeys((aten.std_mean.default, aten.std_mean.dim, aten.std_mean.correction), _STD_MEAN),
    **handlers(_norm, aten.linalg_vector_norm.default),
    **handlers(_p_norm, aten.norm.Scalar, aten.norm.ScalarOpt_dim, aten.norm.ScalarOpt_dim_dtype),
    **handlers(_log_sum_exp, aten.logsumexp.default),
    **handlers(_count_nonzero, aten.count_nonzero.default, aten.count_nonzero.dim_IntList),
    **handlers(_cosine_similarity, aten.cosine_similarity.default, refuse=refuse_different_ranks),
}
