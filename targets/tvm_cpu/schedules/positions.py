"""Positions: the block that finds an extreme together with its position, as two reductions.

The extreme is one, the smallest position whose element equals it the other. Both take vectors, which the pair does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgecc.targets.tvm_cpu.schedules.code import Expr
from edgecc.targets.tvm_cpu.schedules.stage import Axis, NotStagesError, Stage, at_axes, loads

_POSITION = "int32"  # as wide as float32; no axis of a tensor on these devices has more than 2^31 elements


def extreme_and_position(block: Any, spatial: Sequence[Axis], reduction: Sequence[Axis]) -> list[Stage]:
    """The extreme, its position, and the position in the dtype that the block stores. Raises NotStagesError for any other block.

    As in PyTorch the first NaN is the extreme where there is one, and the position is that of the first of several.
    """
    from tvm import tirx

    where, what, position, term, combine = _parts(block)
    axes, unused = at_axes(where, spatial)
    if unused or block.init is None:
        raise NotStagesError("positions that are not at their axes")
    extreme = what.buffer
    start = (tirx.min_value if combine == "max" else tirx.max_value)(str(extreme.ty.dtype))
    itself = extreme[tuple(what.indices)]
    update = (tirx.Max if combine == "max" else tirx.Min)(itself, term)
    value = Stage(extreme, axes, tuple(reduction), start, update, combine, term)
    found = tirx.decl_buffer(extreme.ty.shape, _POSITION, f"{where.buffer.name}_first")
    last = tirx.max_value(_POSITION)
    is_it = tirx.EQ(term, itself)
    if str(extreme.ty.dtype).startswith("float"):
        is_it = tirx.Or(is_it, tirx.isnan(term))
    candidate = tirx.Select(is_it, position.astype(_POSITION), last)
    first = Stage(found, axes, tuple(reduction), last, tirx.Min(found[tuple(what.indices)], candidate), "min", candidate)
    result = Stage(where.buffer, axes, (), None, found[tuple(what.indices)].astype(str(where.buffer.ty.dtype)))
    return [value, first, result]


def _parts(block: Any) -> tuple[Any, Any, Expr, Expr, str]:
    """The stores of the position and of the extreme, the position and the value of an element, `max` or `min`."""
    import tvm_ffi
    from tvm import tirx

    kinds = [tirx.Bind, tirx.Bind, tirx.BufferStore, tirx.BufferStore]
    body = list(block.body.seq) if isinstance(block.body, tirx.SeqStmt) else []
    if [type(s) for s in body] != kinds:
        raise NotStagesError("a block that is not one store")
    (position, value), (where, what) = body[:2], body[2:]
    if not (where.value.same_as(position.var) and what.value.same_as(value.var)):
        raise NotStagesError("a block of two stores that is no search")
    at, better = _select(position.value), _select(value.value)
    own, itself = (s.buffer[tuple(s.indices)] for s in (where, what))
    term, candidate = better.false_value, at.false_value
    combine = "max" if isinstance(better.condition, tirx.GT) else "min"
    keeps = (tirx.GT if combine == "max" else tirx.LT)(itself, term)
    first = tirx.Or(keeps, tirx.And(tirx.EQ(itself, term), tirx.LT(own, candidate)))
    wanted = [(better, tirx.Select(keeps, itself, term)), (at, tirx.Select(first, own, candidate))]
    if not all(tvm_ffi.structural_equal(a, b) for a, b in wanted) or list(loads(candidate)):
        raise NotStagesError("a block of two stores that is no search for the first extreme")
    return where, what, candidate, term, combine


def _select(value: Expr) -> Any:
    from tvm import tirx

    if not isinstance(value, tirx.Select):
        raise NotStagesError("a block of two stores that is no search")
    return value
