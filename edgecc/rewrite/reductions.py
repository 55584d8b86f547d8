"""Formulas of reductions and statistics: each is a mean, of the values, their squares or their squared distances to it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from edgecc.ir.ops import bound_arguments
from edgecc.rewrite.expression import Call, Term, scaled, shape_of, split
from edgecc.rewrite.reading import Arguments, Read, Reader, is_algebraic
from edgecc.rewrite.shapes import reshaped

aten = torch.ops.aten


def item_of_var_mean(reader: Reader, source: fx.Node, index: int) -> Term | None:
    """`var_mean(x)[0]` and `[1]`, where `source` is the `var_mean`."""
    if source.target not in _PAIRS:
        return None
    a = bound_arguments(source)
    x = reader.operand(a["self"])
    if not _is_float(x) or _correction(a) >= (_count(reader, x, a.get("dim")) or 0):
        return None
    reader.seen.add(source)
    reader.absorbed.add(source)
    kept = _variance(reader, a) if index == 0 else _mean(reader, x, a["dim"])
    return _reduced(reader, kept, a["keepdim"])


_PAIRS = (aten.var_mean.correction, aten.var_mean.dim)


def _is_float(x: Term) -> bool:
    return isinstance(x, fx.Node) and bool(x.meta["val"].dtype.is_floating_point)


def _mean(reader: Reader, x: Term, dims: Any) -> Call:
    """The mean with the reduced axes kept."""
    shape = shape_of(x)
    axes = reader.axes(dims, len(shape))
    return reader.call("mean", x, shape=tuple(1 if i - len(shape) in axes else s for i, s in enumerate(shape)), axis=axes)


def _reduced(reader: Reader, kept: Term, keepdim: bool) -> Term:
    """A reduction as the call wants it: with the reduced axes, or without."""
    if keepdim or shape_of(kept) == reader.shape:
        return kept
    literal, rest = split(kept)
    return scaled(literal, reshaped(reader, rest, reader.shape), reader.shape)


def _mean_of(reader: Reader, a: Arguments) -> Term | None:
    if not is_algebraic(reader):
        return None
    return _reduced(reader, _mean(reader, reader.operand(a["self"]), a.get("dim")), a.get("keepdim", False))


def _sum_of(reader: Reader, a: Arguments) -> Term | None:
    x = reader.operand(a["self"])
    count = _count(reader, x, a.get("dim"))
    if not is_algebraic(reader) or count is None:
        return None
    return _reduced(reader, scaled(count, _mean(reader, x, a.get("dim"))), a.get("keepdim", False))


def _count(reader: Reader, x: Term, dims: Any) -> float | None:
    shape = shape_of(x)
    sizes = [shape[axis] for axis in reader.axes(dims, len(shape))]
    return float(math.prod(s for s in sizes if isinstance(s, int))) if all(isinstance(s, int) for s in sizes) else None


def _variance(reader: Reader, a: Arguments) -> Term:
    x = reader.operand(a["self"])
    mean = _mean(reader, x, a.get("dim"))
    centred = reader.sum([(1.0, x), (-1.0, mean)], shape=shape_of(x))
    square = reader.product([(centred, 2.0)], shape=shape_of(x))
    count = _count(reader, x, a.get("dim"))
    assert count is not None
    return scaled(count / (count - _correction(a)), _mean(reader, square, a.get("dim")))


def _has_variance(reader: Reader, a: Arguments) -> bool:
    count = _count(reader, reader.operand(a["self"]), a.get("dim"))
    return is_algebraic(reader) and count is not None and count > _correction(a)


def _correction(a: Arguments) -> float:
    """How much less than the count the squares are divided by: 1 unless the call says otherwise."""
    return float(a["correction"]) if a.get("correction") is not None else float(a.get("unbiased", True))


def _var(reader: Reader, a: Arguments) -> Term | None:
    return _reduced(reader, _variance(reader, a), a.get("keepdim", False)) if _has_variance(reader, a) else None


def _std(reader: Reader, a: Arguments) -> Term | None:
    if not _has_variance(reader, a):
        return None
    variance = _variance(reader, a)
    return _reduced(reader, reader.product([(variance, 0.5)], shape=shape_of(variance)), a.get("keepdim", False))


def _norm(reader: Reader, a: Arguments) -> Term | None:
    """The 2-norm: `sqrt(n * mean(x**2))`."""
    x, order = reader.operand(a["self"]), a.get("ord", a.get("p"))
    count = _count(reader, x, a.get("dim"))
    if not is_algebraic(reader) or order != 2 or count is None:
        return None
    square = reader.product([(x, 2.0)], shape=shape_of(x))
    mean = _mean(reader, square, a.get("dim"))
    root = reader.product([(mean, 0.5)], literal=math.sqrt(count), shape=shape_of(mean))
    return _reduced(reader, root, a.get("keepdim", False))


REDUCTIONS: dict[Any, Read] = {
    aten.mean: _mean_of,
    aten.sum: _sum_of,
    aten.var: _var,
    aten.std: _std,
    aten.linalg_vector_norm: _norm,
    aten.norm: _norm,
}
