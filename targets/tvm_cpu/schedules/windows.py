"""Windows: the part of a reduction's axes that lies inside of the input, as bounds of its loops.

A term `if_then_else(inside, x[..], identity)` adds nothing outside. Where each condition is linear in one axis of the
reduction, it bounds that axis, and the loops run over the inside alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from edgecc.targets.tvm_cpu.schedules.code import Code, Expr, index
from edgecc.targets.tvm_cpu.schedules.stage import Axis, extent_of, replace, variables


@dataclass(frozen=True)
class Bound:
    """`value >= 0`, where `value` changes by `factor` with each step along `axis`; None: it does not depend on an axis."""

    axis: Any
    value: Expr
    factor: int


def inside(term: Expr, combine: str | None, axes: Sequence[Axis], around: Sequence[Axis]) -> tuple[Expr, tuple[Bound, ...]]:
    """A term without its conditions, and the bounds that stand for them; the term as it is where they cannot.

    `around`: the axes outside of the reduction.
    """
    from tvm import sym

    found = _conditional(term)
    if found is None or combine is None or not _is_identity(found[2], combine):
        return term, ()
    analyzer = sym.Analyzer()
    for axis in (*axes, *around):
        if isinstance(axis.extent, int):
            analyzer.bind(axis.var, _range(axis.extent))
    bounds = []
    for condition in _conjuncts(found[0]):
        value = _as_value(condition)
        bound = None if value is None else _bound(analyzer.simplify(value), axes)
        if bound is None:
            return term, ()
        if not analyzer.can_prove(bound.value >= 0):
            bounds.append(bound)
    return found[1], tuple(bounds)


def limits(axis: Axis, bounds: Sequence[Bound]) -> tuple[Expr, Expr]:
    """The first and the end of the positions along an axis at which every bound holds; an end before the first: none."""
    from tvm import tirx

    first, end = index(0), index(axis.extent)
    for bound in bounds:
        if bound.axis is not None and bound.axis.same_as(axis.var):
            rest = replace(bound.value, {axis.var: 0})
            if bound.factor > 0:
                first = tirx.max(first, -tirx.floordiv(rest, index(bound.factor)))
            else:
                end = tirx.min(end, tirx.floordiv(rest, index(-bound.factor)) + 1)
    return first, end


def is_bounded(axis: Axis, bounds: Sequence[Bound]) -> bool:
    return any(b.axis is not None and b.axis.same_as(axis.var) for b in bounds)


def run_of(code: Code, axis: Axis, bounds: Sequence[Bound], values: Mapping[Any, Expr]) -> tuple[Expr, Any]:
    """From where along an axis how many points are within the bounds, where the other variables have these values."""
    from tvm import tirx

    if not is_bounded(axis, bounds):
        return index(0), axis.extent
    first, end = limits(axis, bounds)
    low = code.bind("first", replace(first, values))
    return low, code.bind("count", tirx.max(replace(end, values) - low, index(0)))


@contextmanager
def guarded(code: Code, bounds: Sequence[Bound], values: Mapping[Any, Expr]) -> Iterator[None]:
    """Code that runs where the bounds that depend on no axis hold."""
    from tvm import tirx

    guards = [replace(b.value, values) >= 0 for b in bounds if b.axis is None]
    if not guards:
        yield
        return
    with code.when(tirx.all(*guards)):
        yield


def holds_throughout(axis: Axis, bounds: Sequence[Bound]) -> list[Expr]:
    """Values that are all at least 0 where every bound on an axis holds along the whole axis."""
    own = [b for b in bounds if b.axis is not None and b.axis.same_as(axis.var)]
    return [replace(b.value, {axis.var: 0 if b.factor > 0 else index(axis.extent) - 1}) for b in own]


def interior(values: Sequence[Expr], axis: Axis) -> tuple[Expr, Expr] | None:
    """From where to where along an axis all values are at least 0; None where they are not linear in it."""
    from tvm import sym, tirx

    first, end = index(0), index(axis.extent)
    for value in values:
        found = sym.detect_linear_equation(value, [axis.var])
        factor = extent_of(sym.Analyzer().simplify(found[0])) if found else None
        if not isinstance(factor, int):
            return None
        if factor > 0:
            first = tirx.max(first, -tirx.floordiv(found[1], index(factor)))
        elif factor < 0:
            end = tirx.min(end, tirx.floordiv(found[1], index(-factor)) + 1)
    analyzer = sym.Analyzer()
    first = analyzer.simplify(tirx.min(first, index(axis.extent)))
    return first, analyzer.simplify(tirx.max(end, first))


def _range(extent: int) -> Any:
    import tvm

    return tvm.ir.Range(index(0), index(extent))


def _conditional(term: Expr) -> Any:
    import tvm

    if isinstance(term, tvm.ir.Call) and getattr(term.op, "name", "").endswith("if_then_else"):
        return tuple(term.args)
    return None


def _is_identity(value: Expr, combine: str) -> bool:
    from tvm import tirx

    if not isinstance(value, (tirx.IntImm, tirx.FloatImm)):
        return False
    dtype, number = str(value.ty.dtype), float(value.value)
    if combine in ("sum", "prod"):
        return number == (combine == "prod")
    largest = float((tirx.max_value if combine == "min" else tirx.min_value)(dtype).value)
    return number == largest or number == math.copysign(math.inf, largest)


def _conjuncts(condition: Expr) -> list[Expr]:
    from tvm import tirx

    if isinstance(condition, tirx.And):
        return [*_conjuncts(condition.a), *_conjuncts(condition.b)]
    return [condition]


def _as_value(condition: Expr) -> Expr | None:
    """What is at least 0 where the condition holds."""
    from tvm import tirx

    kinds = {tirx.LT: (1, 1), tirx.LE: (1, 0), tirx.GT: (-1, 1), tirx.GE: (-1, 0)}
    found = kinds.get(type(condition))
    if found is None or not str(condition.a.ty.dtype).startswith("int"):
        return None
    sign, strict = found
    return (condition.b - condition.a) * sign - strict


def _bound(value: Expr, axes: Sequence[Axis]) -> Bound | None:
    from tvm import sym

    used = [a for a in axes if a.var in variables(value)]
    if not used:
        return Bound(None, value, 0)
    found = sym.detect_linear_equation(value, [used[0].var]) if len(used) == 1 else ()
    factor = extent_of(sym.Analyzer().simplify(found[0])) if found else None
    return Bound(used[0].var, value, factor) if isinstance(factor, int) and factor else None
