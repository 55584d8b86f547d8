"""Order: the axes of a nest as they lie in memory, and neighbours that are one run of memory as one axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace as changed
from typing import Any

from edgecc.targets.tvm_cpu.schedules.access import equal
from edgecc.targets.tvm_cpu.schedules.code import Expr, index
from edgecc.targets.tvm_cpu.schedules.nest import Nest, Result, Views, moved, step, substituted
from edgecc.targets.tvm_cpu.schedules.stage import Axis, loads, variables


def ordered(nest: Nest) -> Nest:
    """The nest with each group of axes in the order of memory, and merged where they can be.

    The terms of a reduction whose order counts stay in it.
    """
    written = [w.offset for w in nest.writes]
    nest = changed(nest, results=tuple(_ordered(r) for r in nest.results))
    rows, put = _merged(_sorted(nest.rows, written), nest)
    nest = _with(changed(nest, rows=rows), put)
    inner, put = _merged(_sorted(nest.inner, [w.offset for w in nest.writes]), nest)
    return _with(changed(nest, inner=inner), put)


def _ordered(result: Result) -> Result:
    if result.combine is None:
        return result
    alone = Nest((), (), (result,), (), Views())
    axes, put = _merged(_sorted(result.axes, _loaded(alone)), alone)
    return substituted(changed(result, axes=axes), put)


def _with(nest: Nest, put: dict[Any, Expr]) -> Nest:
    results = tuple(substituted(r, put) for r in nest.results)
    return changed(nest, results=results, writes=tuple(moved(w, put) for w in nest.writes)) if put else nest


def _sorted(axes: Sequence[Axis], places: Sequence[Expr]) -> list[Axis]:
    """The longest steps first, at the place that has the most of the axes; a symbolic step is longer than any other."""
    if not places or len(axes) < 2:
        return list(axes)
    main = max(places, key=lambda p: sum(a.var in variables(p) for a in axes))
    steps = {a.var: step(main, a.var) for a in axes}
    if sum(not isinstance(s, int) for s in steps.values()) > 1:
        return list(axes)
    return sorted(axes, key=lambda a: -float(steps[a.var]) if isinstance(steps[a.var], int) else float("-inf"))


def _merged(axes: Sequence[Axis], nest: Nest) -> tuple[tuple[Axis, ...], dict[Any, Expr]]:
    """Fewer axes for the same walk, and the values of the variables that are gone."""
    found = list(axes)
    gone: dict[Any, Expr] = {}
    for number in range(len(found) - 1, 0, -1):
        outer, last = found[number - 1 : number + 1]
        if _is_run(outer, last, nest, gone):
            found[number - 1 : number + 1] = [Axis(last.var, outer.extent * last.extent)]
            gone[outer.var] = index(0)
    return tuple(found), gone


def _is_run(outer: Axis, last: Axis, nest: Nest, gone: dict[Any, Expr]) -> bool:
    """Whether both axes are used for places in memory alone, and walk through one run at each.

    `last` may stand for axes that were merged: a step along it is one along the last of them.
    """
    both = {outer.var, last.var, *gone}
    if any(both & variables(b.value) for r in nest.results for b in r.bounds):
        return False
    if any(both & variables(_without_loads(e)) for e in nest.values()):
        return False
    for place in [*nest.places(), *_loaded(nest)]:
        far, near = step(place, outer.var), step(place, last.var)
        if far is None or near is None or not equal(far, near * last.extent):
            return False
    return True


def _loaded(nest: Nest) -> list[Expr]:
    return [x.indices[0] for e in (*nest.values(), *nest.places()) for x in loads(e)]


def _without_loads(value: Expr) -> Expr:
    import tvm
    import tvm_ffi
    from tvm import tirx

    return tvm_ffi.structural_map(value, (tvm.ir.TensorLoad, lambda x: tirx.const(0, str(x.ty.dtype))))
