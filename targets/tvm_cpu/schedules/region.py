"""Regions: the points of an output, divided so that the conditions on positions are decided in each part.

A concatenation is one region for each input, a padded image nine: no element tests where it lies.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edgecc.targets.tvm_cpu.schedules.access import equal
from edgecc.targets.tvm_cpu.schedules.code import Buffer, Expr, index
from edgecc.targets.tvm_cpu.schedules.stage import Kernel, extent_of, loads, replace, variables
from edgecc.targets.tvm_cpu.schedules.values import Values, conditions, values_of

_MOST = 32  # regions of one output
_LARGEST = 1 << 40


@dataclass(frozen=True)
class Range:
    """`variable` in `low .. low + extent`."""

    variable: Any
    low: Expr
    extent: Expr


@dataclass(frozen=True)
class Space:
    """Points, by the range of each variable, and the place in the output of a point."""

    ranges: tuple[Range, ...]
    place: tuple[Expr, ...]


@dataclass(frozen=True)
class Region:
    """A part of a space, and the values of the outputs there."""

    space: Space
    values: Values


def regions(kernel: Kernel, outputs: Sequence[Buffer]) -> list[Region]:
    """Parts that together are all elements of the outputs, which have one shape."""
    space = _whole(outputs[0])
    values = values_of(kernel, outputs, space.place, simplifier(space))
    for _ in range(8):  # an axis that is divided by several numbers is split by one after the other
        split = _split(space, values)
        if split is None:
            break
        space = split
        values = values_of(kernel, outputs, space.place, simplifier(space))
    cuts = [_borders(space, r, values) for r in space.ranges]
    while _count(cuts) > _MOST:
        cuts[max(range(len(cuts)), key=lambda n: len(cuts[n]))] = []
    if _count(cuts) == 1:
        return [Region(space, values)]
    parts = []
    for ranges in itertools.product(*[_pieces(r, c) for r, c in zip(space.ranges, cuts, strict=True)]):
        part = Space(tuple(ranges), space.place)
        if any(isinstance(r.extent, int) and r.extent <= 0 for r in ranges):
            continue
        parts.append(Region(part, values_of(kernel, outputs, part.place, simplifier(part))))
    return parts


def simplifier(space: Space) -> Callable[[Expr], Expr]:
    """Simplify expressions for points of a space, and decide conditions."""
    import tvm
    from tvm import sym, tirx

    analyzer = sym.Analyzer()
    for size in {v for r in space.ranges for e in (r.low, r.extent) if not isinstance(e, int) for v in variables(e)}:
        analyzer.bind(size, tvm.ir.Range(index(1), index(_LARGEST)))
    for r in space.ranges:
        analyzer.bind(r.variable, tvm.ir.Range.from_min_extent(index(r.low), index(r.extent)))

    def simplify(value: Expr) -> Expr:
        if not hasattr(value, "ty"):
            return value
        value = analyzer.simplify(value)
        if str(value.ty.dtype) != "bool" or list(loads(value)):
            return value
        known = decide(value)
        return value if known is None else tirx.const(known, "bool")

    def decide(value: Expr) -> bool | None:
        if isinstance(value, tirx.IntImm):
            return bool(int(value))
        if isinstance(value, (tirx.And, tirx.Or)):
            known = [decide(value.a), decide(value.b)]
            decisive = isinstance(value, tirx.Or)
            return decisive if decisive in known else None if None in known else not decisive
        if isinstance(value, tirx.Not):
            inner = decide(value.a)
            return None if inner is None else not inner
        if analyzer.can_prove(value, sym.ProofStrength.SYMBOLIC_BOUND):
            return True
        return False if analyzer.can_prove(tirx.Not(value), sym.ProofStrength.SYMBOLIC_BOUND) else None

    return simplify


def _whole(output: Buffer) -> Space:
    from tvm import tirx

    sizes = [extent_of(s) for s in output.ty.shape]
    ranges = [None if s == 1 and isinstance(s, int) else Range(tirx.Var(f"i{n}", "int64"), 0, s) for n, s in enumerate(sizes)]
    return Space(tuple(r for r in ranges if r), tuple(r.variable if r else index(0) for r in ranges))


def _split(space: Space, values: Values) -> Space | None:
    """The space with an axis as two, where values have its quotient and remainder by a number; None where none has."""
    import tvm_ffi
    from tvm import tirx

    divisors: dict[Any, set[int]] = {}

    def see(node: Any) -> None:
        by = extent_of(node.b)
        if isinstance(by, int) and by > 1:
            for r in space.ranges:
                if node.a.same_as(r.variable):
                    divisors.setdefault(r.variable, set()).add(by)

    for value in values.expressions:
        tvm_ffi.structural_walk(value, ((tirx.FloorDiv, tirx.FloorMod), see))
    for r in space.ranges:
        for by in sorted(divisors.get(r.variable, ())):
            if not _divisible(r.extent, by) or equal(r.extent, by):
                continue
            high = Range(tirx.Var(f"{r.variable.name}h", "int64"), 0, _quotient(r.extent, by))
            low = Range(tirx.Var(f"{r.variable.name}l", "int64"), 0, by)
            put = {r.variable: high.variable * by + low.variable}
            ranges = [x for old in space.ranges for x in ([high, low] if old is r else [old])]
            return Space(tuple(ranges), tuple(replace(p, put) for p in space.place))
    return None


def _divisible(extent: Expr, by: int) -> bool:
    from tvm import sym, tirx

    if isinstance(extent, int):
        return extent % by == 0
    return bool(sym.Analyzer().can_prove_equal(tirx.floormod(extent, index(by)), index(0)))


def _quotient(extent: Expr, by: int) -> Expr:
    from tvm import sym, tirx

    return extent // by if isinstance(extent, int) else extent_of(sym.Analyzer().simplify(tirx.floordiv(extent, index(by))))


def _count(cuts: Sequence[Sequence[Expr]]) -> int:
    total = 1
    for c in cuts:
        total *= len(c) + 1
    return total


def _borders(space: Space, r: Range, values: Values) -> list[Expr]:
    """Where along an axis a condition changes, in order; none where that order is not known."""
    from tvm import sym, tirx

    found: list[Expr] = []
    for condition in _atoms(values):
        used = [x for x in space.ranges if x.variable in variables(condition)]
        if r not in used:
            continue
        factors = sym.detect_linear_equation(condition.a - condition.b, [x.variable for x in used])
        steps = [extent_of(f) for f in factors[:-1]]
        if not factors or not all(isinstance(s, int) and s for s in steps):
            continue
        step = steps[used.index(r)]
        others = [(s, x) for s, x in zip(steps, used, strict=True) if x is not r]
        shifts = [0] if isinstance(condition, (tirx.LT, tirx.GE)) else [1] if isinstance(condition, (tirx.LE, tirx.GT)) else [0, 1]
        for shift in shifts:  # whether the difference is below this number is what the condition depends on
            if step > 0:
                at = _crossing(step, others, factors[-1] - shift)
            else:
                at = _crossing(-step, [(-s, x) for s, x in others], shift - 1 - factors[-1])
            if at is not None and not any(equal(at, known) for known in found):
                found.append(at)
    return _ordered(found, r)


def _atoms(values: Values) -> list[Any]:
    """The comparisons of positions in all conditions."""
    from tvm import tirx

    kinds = (tirx.LT, tirx.LE, tirx.GT, tirx.GE, tirx.EQ, tirx.NE)
    pending = [c for value in values.expressions for c in conditions(value)]
    found: list[Any] = []
    while pending:
        condition = pending.pop()
        if isinstance(condition, (tirx.And, tirx.Or)):
            pending += [condition.a, condition.b]
        elif isinstance(condition, tirx.Not):
            pending.append(condition.a)
        elif isinstance(condition, kinds) and not list(loads(condition)) and "int" in str(condition.a.ty.dtype):
            found.append(condition)
    return found


def _crossing(step: int, others: Sequence[tuple[int, Range]], rest: Expr) -> Expr | None:
    """The first i for which `step * i + sum(others) + rest >= 0`, where that is the same for all positions of the others."""
    simplify = simplifier(Space((), ()))
    rest = extent_of(simplify(rest)) if not isinstance(rest, int) else rest
    if others:
        if any(s < 0 or not isinstance(x.extent, int) or not isinstance(x.low, int) or x.low for s, x in others):
            return None
        if sum(s * (x.extent - 1) for s, x in others) >= step or not isinstance(rest, int) or rest % step:
            return None
    return extent_of(simplify(index(_ceil(-rest, step))))


def _floor(a: Expr, b: int) -> Expr:
    from tvm import tirx

    return a if b == 1 else tirx.floordiv(index(a), index(b))


def _ceil(a: Expr, b: int) -> Expr:
    return _floor(a + (b - 1), b) if b != 1 else a


def _ordered(borders: Sequence[Expr], r: Range) -> list[Expr]:
    if all(isinstance(b, int) for b in borders) and isinstance(r.extent, int):
        return sorted(b for b in borders if 0 < b < r.extent)
    kept: list[Expr] = []
    for border in borders:
        if _proved(border, r.extent, strict=False) and _proved(0, border, strict=False):
            at = next((n for n, k in enumerate(kept) if _proved(border, k, strict=False)), len(kept))
            if all(_proved(k, border, strict=False) for k in kept[:at]):
                kept.insert(at, border)
    return kept


def _proved(a: Expr, b: Expr, *, strict: bool) -> bool:
    """Whether a <= b for all sizes."""
    import tvm
    from tvm import sym

    if isinstance(a, int) and isinstance(b, int):
        return a < b if strict else a <= b
    analyzer = sym.Analyzer()
    for size in variables(index(a)) | variables(index(b)):
        analyzer.bind(size, tvm.ir.Range(index(1), index(_LARGEST)))
    return bool(analyzer.can_prove(index(a) < index(b) if strict else index(a) <= index(b)))


def _pieces(r: Range, borders: Sequence[Expr]) -> list[Range]:
    starts = [r.low, *borders]
    ends = [*borders, r.low + r.extent if not isinstance(r.low, int) or r.low else r.extent]
    return [Range(r.variable, a, _difference(b, a)) for a, b in zip(starts, ends, strict=True)]


def _difference(b: Expr, a: Expr) -> Expr:
    from tvm import sym

    return b - a if isinstance(a, int) and isinstance(b, int) else extent_of(sym.Analyzer().simplify(index(b) - index(a)))
