"""The rule for reductions: everything with a reduction that no other rule takes, and a loop nest for any list of stages.

The vector lies along a row axis where the elements of neighbouring rows are neighbours in memory (`columns`), else
along the reduction where its elements are (`across`), else nowhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from edgecc.targets.tvm_cpu.schedules.across import Across
from edgecc.targets.tvm_cpu.schedules.code import Expr
from edgecc.targets.tvm_cpu.schedules.columns import Columns
from edgecc.targets.tvm_cpu.schedules.core import Core
from edgecc.targets.tvm_cpu.schedules.in_place import replaceable
from edgecc.targets.tvm_cpu.schedules.nest import Nest, step
from edgecc.targets.tvm_cpu.schedules.partition import plan_pieces, split
from edgecc.targets.tvm_cpu.schedules.plan import Plan, single
from edgecc.targets.tvm_cpu.schedules.rows import NotRowsError, is_costly, read_rows
from edgecc.targets.tvm_cpu.schedules.stage import Axis, Kernel, loads

Planner = Callable[[Kernel], Plan]

_VECTOR = 4  # bytes of the elements that a core's lanes are counted in
_SHORT = 4  # elements along a reduction, fewer than which are not worth a vector
_SMALL = 16384  # elements, a call of a costly function counting for 8, that one thread is done with before others have begun


def reduce(kernel: Kernel, core: Core, constants: frozenset[int] = frozenset(), part: Planner | None = None) -> Plan | None:
    """The plan of a function with reductions; None for one without.

    One kernel where its stages share rows, else several; `part` plans what is left when a reduction is taken out.
    """
    return nest_loops(kernel, core, part) if any(s.is_reduction for s in kernel.stages) else None


def nest_loops(kernel: Kernel, core: Core, part: Planner | None = None) -> Plan:
    """The plan of any function, one without reductions too."""
    try:
        nest = read_rows(kernel)
    except NotRowsError as error:
        at = kernel.outputs[:-1] if error.at is None else [error.at]
        return plan_pieces(kernel, split(kernel, at), part or (lambda piece: nest_loops(piece, core)))
    return _planned(kernel, nest, core)


def _planned(kernel: Kernel, nest: Nest, core: Core) -> Plan:
    parallel, in_place = not _is_small(nest), replaceable(kernel, nest)
    across = [_lanes(core, r.dtype, r.axes, _places(r.values())) if r.combine else 1 for r in nest.results]
    column = _column(nest, (0, 1)) or (_column(nest, None) if _is_window(nest) else None)
    if column is not None and nest.results and (max(across) == 1 or _is_window(nest)):
        lanes = min(_vector(core, r.dtype) for r in nest.results)
        columns = Columns(nest, core, column, lanes, 2 if any(is_costly(e) for e in nest.values()) else 8)
        return single(f"reduction of columns x{lanes}", kernel, columns.code(parallel), in_place if columns.is_disjoint else [])
    dtype = max((str(w.value.ty.dtype) for w in nest.writes), key=_bytes)
    write = _lanes(core, dtype, nest.inner, [*(w.offset for w in nest.writes), *_places(w.value for w in nest.writes)])
    code = Across(nest, core, across, write).code(parallel)
    return single(f"reduction of rows x{max(across, default=write)}", kernel, code, in_place)


def _column(nest: Nest, steps: tuple[int, ...] | None) -> Axis | None:
    """The row axis along which every write goes from one element to the next, and every load makes one of `steps`, if any."""
    places = _places(nest.values())
    written = list(nest.places())
    for axis in reversed(nest.rows):
        if all(step(p, axis.var) == 1 for p in written) and (steps is None or all(step(p, axis.var) in steps for p in places)):
            return axis
    return None


def _is_window(nest: Nest) -> bool:
    """Whether every reduction is too short for a vector along it."""
    last = [r.axes[-1].extent if r.axes else 1 for r in nest.results]
    return all(isinstance(n, int) and n < _SHORT for n in last)


def _lanes(core: Core, dtype: str, axes: Sequence[Axis], places: Sequence[Expr]) -> int:
    """Lanes along the last axis; 1 where its elements are not neighbours."""
    if not axes or not all(step(p, axes[-1].var) in (0, 1) for p in places):
        return 1
    lanes, extent = _vector(core, dtype), axes[-1].extent
    while isinstance(extent, int) and lanes > max(extent, 1):
        lanes //= 2
    return lanes


def _vector(core: Core, dtype: str) -> int:
    return max(1, core.lanes * _VECTOR // _bytes(dtype))


def _bytes(dtype: str) -> int:
    from tvm import DataType

    return max(1, int(DataType(dtype).itemsize))


def _places(expressions: Any) -> list[Expr]:
    return [x.indices[0] for e in expressions for x in loads(e)]


def _is_small(nest: Nest) -> bool:
    """Whether the whole kernel is less work than waking threads."""
    sizes = [[*nest.rows, *axes] for axes in ([r.axes for r in nest.results] + [nest.inner])]
    if any(not isinstance(a.extent, int) for axes in sizes for a in axes):
        return False
    work: int = max(math.prod(a.extent for a in axes) for axes in sizes)
    return work * (8 if any(is_costly(e) for e in nest.values()) else 1) <= _SMALL
