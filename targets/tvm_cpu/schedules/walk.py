"""Walks: the loops over a region of an elementwise function, fused, with the elements of a row as vectors.

Neighbouring axes become one loop where every load and the output move along both as along one: then the whole tensor is
one row, whatever its sizes. A row is a loop over several vectors at once, one over single vectors, and narrower pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgecc.targets.tvm_cpu.schedules.access import Linear, equal, linear
from edgecc.targets.tvm_cpu.schedules.code import Buffer, Code, Expr, index
from edgecc.targets.tvm_cpu.schedules.region import Range, Region
from edgecc.targets.tvm_cpu.schedules.stage import loads, replace, variables
from edgecc.targets.tvm_cpu.schedules.values import Values, conditions, is_condition

_CHEAP = 12  # operations of a value below which a loop takes four vectors at once


@dataclass(frozen=True)
class Axis:
    """Ranges that are walked as one. `fixed`: a value needs the position itself."""

    ranges: tuple[Range, ...]
    extent: Expr
    fixed: bool

    def where(self, at: Expr) -> dict[Any, Expr]:
        """Each variable at position `at`: the last one runs beyond its range, which is the same place in memory."""
        return {**{r.variable: r.low for r in self.ranges[:-1]}, self.ranges[-1].variable: _sum(self.ranges[-1].low, at)}


@dataclass(frozen=True)
class Load:
    """A load with its offset in memory in terms of some variables; in others it is not linear."""

    load: Any
    offset: Linear
    free: frozenset[Any]

    @property
    def variables(self) -> set[Any]:
        """Those of the indices, and of loads in them."""
        return {v for i in self.load.indices for v in variables(index(i))}


class Walk:
    """The loops of one region."""

    def __init__(self, region: Region, outputs: Sequence[Buffer]) -> None:
        self.region, self.outputs = region, outputs
        self.ranges = region.space.ranges
        every = [r.variable for r in self.ranges]
        self.loads = [_linear(x, every) for value in region.values.expressions for x in loads(value)]
        place = region.space.place
        self.store = _linear(outputs[0][tuple(place)] if place else outputs[0][()], every)
        self.axes = self._fuse(_positions(region))

    def _fuse(self, fixed: frozenset[Any]) -> list[Axis]:
        axes: list[Axis] = []
        for r in self.ranges:
            mine = r.variable in fixed or any(r.variable not in x.free and r.variable in x.variables for x in self.loads)
            if axes and not mine and not axes[-1].fixed and self._join(axes[-1].ranges[-1], r):
                last = axes.pop()
                axes.append(Axis((*last.ranges, r), last.extent * r.extent, False))
            else:
                axes.append(Axis((r,), r.extent, mine))
        return axes

    def _join(self, outer: Range, inner: Range) -> bool:
        for found in [*self.loads, self.store]:
            a, b = (found.offset.strides.get(r.variable, 0) for r in (outer, inner))
            if not equal(a, b * inner.extent):
                return False
        return True

    def stride(self, load: Load, axis: Axis) -> Expr | None:
        """Elements between the loads of neighbours along an axis; None where that is not one number."""
        variable = axis.ranges[-1].variable
        if variable not in load.free:
            return None if variable in load.variables else 0
        return load.offset.strides.get(variable, 0)

    def in_place(self, parameter: Buffer) -> bool:
        """Whether each element of the output reads the element at the same place of a parameter, and no other of it."""
        mine = [x for x in self.loads if x.load.source.same_as(parameter)]
        return all(_same_place(x, self.store, self.ranges) for x in mine)

    def gathers(self, axis: Axis) -> list[Any]:
        """Loads of positions for other loads that are the same all along an axis."""
        if any(conditions(v) for v in self.region.values.expressions):
            return []
        moving = {r.variable for r in axis.ranges} | {x for x, _ in self.region.values.shared}
        nested = [y for x in self.loads for i in x.load.indices for y in loads(index(i))]
        still = [x for x in nested if not any(v in moving for i in x.indices for v in variables(index(i)))]
        return [x for n, x in enumerate(still) if not any(_same(x, y) for y in still[:n])]

    # -- code

    def emit(self, code: Code, where: Mapping[Any, Expr], values: Values | None = None) -> None:
        """One point. `values`: in place of the region's."""
        values = values or self.region.values
        names: dict[Any, Expr] = dict(where)
        for variable, value in values.shared:
            names[variable] = code.bind(variable.name, replace(value, names))
        self._store(code, names, values)

    def emit_vector(self, code: Code, where: Callable[[Expr], Mapping[Any, Expr]], lanes: int, values: Values | None = None) -> None:
        """Several points: `where` gives that of a lane. Shared values are in memory, for statements that TVM scalarizes."""
        values = values or self.region.values
        kept = [code.local(x.name, lanes, str(x.ty.dtype)) for x, _ in values.shared]
        with code.loop("v", lanes, "vector") as v:
            names: dict[Any, Expr] = dict(where(v))
            for (variable, value), buffer in zip(values.shared, kept, strict=True):
                code.store(buffer, [v], replace(value, names))
                names[variable] = buffer[v]
            self._store(code, names, values)

    def _store(self, code: Code, names: Mapping[Any, Expr], values: Values) -> None:
        place = [replace(p, names) for p in self.region.space.place]
        for output, value in zip(self.outputs, values.results, strict=True):
            code.store(output, place, replace(value, names))

    def lanes(self, width: int) -> int:
        """Elements of a vector of `width` bytes, by the widest type that a value has."""
        import tvm

        dtypes = [str(b.ty.dtype) for b in self.outputs] + [str(x.load.source.ty.dtype) for x in self.loads]
        dtypes += [str(v.ty.dtype) for v, _ in self.region.values.shared]
        return max(1, width // max(tvm.DataType(d).bits // 8 or 1 for d in dtypes))

    def at_once(self) -> int:
        """How many vectors a loop takes at once."""
        operations = sum(_operations(v) for v in self.region.values.expressions)
        return 4 if operations <= _CHEAP else 2

    def vectorizes(self, axis: Axis) -> bool:
        """Whether the elements along an axis can be lanes: no condition is different for each of them."""
        mine = {r.variable for r in axis.ranges}
        return not any(mine & _depends(c, self.region) for v in self.region.values.expressions for c in _lazy(v))


def _linear(load: Any, every: Sequence[Any]) -> Load:
    used = Load(load, Linear(index(0), {}), frozenset()).variables
    free = [v for v in every if v in used and linear(load, [v]) is not None]
    found = linear(load, free)
    while found is None and free:
        free.pop()
        found = linear(load, free)
    if found is None:
        found = Linear(index(0), {})
    moving = [v for v in free if any(v in _names(s) for s in found.strides.values())]
    return Load(load, found, frozenset(v for v in free if v not in moving and not _names(found.strides.get(v, 0)) & set(every)))


def _names(value: Expr) -> set[Any]:
    return set() if isinstance(value, int) else variables(value)


def _positions(region: Region) -> frozenset[Any]:
    """Variables that values use other than in loads."""
    import tvm
    import tvm_ffi

    found: set[Any] = set()
    for value in region.values.expressions:

        def skip(load: Any) -> Any:
            return tvm_ffi.WalkResult.SKIP

        tvm_ffi.structural_walk(value, [(tvm.ir.TensorLoad, skip), (tvm.ir.Var, found.add)], order="pre")
    return frozenset(v for v in found if any(v.same_as(r.variable) for r in region.space.ranges))


def _lazy(value: Expr) -> list[Expr]:
    import tvm
    import tvm_ffi

    found: list[Expr] = []
    tvm_ffi.structural_walk(value, (tvm.ir.Call, lambda c: found.append(c.args[0]) if is_condition(c) else None))
    return found


def _depends(value: Expr, region: Region) -> set[Any]:
    """The variables that a value depends on, through shared values too."""
    used = variables(value)
    for variable, shared in reversed(region.values.shared):
        if variable in used:
            used |= variables(shared)
    return used


def _operations(value: Expr) -> int:
    import tvm
    import tvm_ffi
    from tvm import tirx

    count = [0]

    def see(_: Any) -> None:
        count[0] += 1

    def call(node: Any) -> None:
        count[0] += 10

    kinds = (tirx.Add, tirx.Sub, tirx.Mul, tirx.Div, tirx.Max, tirx.Min, tirx.Select, tirx.Cast, tirx.LT, tirx.EQ)
    tvm_ffi.structural_walk(value, [(tvm.ir.Call, call), (kinds, see)])
    return count[0]


def _same_place(load: Load, store: Load, ranges: Sequence[Range]) -> bool:
    if not equal(load.offset.base, store.offset.base):
        return False
    names = [r.variable for r in ranges]
    inside = all(v in load.free or v not in load.variables for v in names)
    return inside and all(equal(load.offset.strides.get(v, 0), store.offset.strides.get(v, 0)) for v in names)


def _sum(a: Expr, b: Expr) -> Expr:
    return b if isinstance(a, int) and a == 0 else a + b


def _same(a: Any, b: Any) -> bool:
    import tvm_ffi

    return bool(tvm_ffi.structural_equal(a, b))
