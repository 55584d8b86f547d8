"""In place: which inputs of a nest its output may take the memory of."""

from __future__ import annotations

from edgecc.targets.tvm_cpu.schedules.access import equal
from edgecc.targets.tvm_cpu.schedules.code import Buffer, Expr
from edgecc.targets.tvm_cpu.schedules.nest import Nest, Write
from edgecc.targets.tvm_cpu.schedules.stage import Kernel, loads, replace, shape


def replaceable(kernel: Kernel, nest: Nest) -> list[int]:
    """Numbers of the parameters that the output may overlap exactly: each row reads its own elements and no others.

    This holds for loops that compute each row once, all its results before its writes.
    """
    if len(nest.writes) != 1:
        return []
    write = nest.writes[0]
    return [
        number
        for number, param in enumerate(kernel.params)
        if not kernel.is_output(param) and _is_alike(param, kernel.outputs[0]) and _is_own(nest, nest.views.of(param), write)
    ]


def _is_alike(a: Buffer, b: Buffer) -> bool:
    same = str(a.ty.dtype) == str(b.ty.dtype) and len(a.ty.shape) == len(b.ty.shape)
    return same and all(equal(x, y) for x, y in zip(shape(a), shape(b), strict=True))


def _is_own(nest: Nest, view: Buffer, write: Write) -> bool:
    """Whether every load is of the row that is written, and none is after something was stored there."""
    stored = False
    for result in nest.results:
        terms = [result.term, *(e for _, e in result.before)]
        kept = [] if result.kept is None else [result.kept.value]
        if (stored or kept) and _places(terms, view):
            return False
        if stored and _places(kept, view):
            return False
        stored = stored or bool(kept)
        axes = result.axes
        if len(axes) != len(nest.inner) or any(not equal(a.extent, b.extent) for a, b in zip(axes, nest.inner, strict=True)):
            if _places([*terms, *kept], view):
                return False
            continue
        along = {a.var: b.var for a, b in zip(axes, nest.inner, strict=True)}
        if any(not _equal(replace(place, along), write.offset) for place in _places([*terms, *kept], view)):
            return False
    last = _places([write.value, *(e for _, e in write.before)], view)
    return not (stored and last) and all(_equal(place, write.offset) for place in last)


def _places(expressions: list[Expr], view: Buffer) -> list[Expr]:
    return [x.indices[0] for e in expressions for x in loads(e) if x.source.same_as(view)]


def _equal(a: Expr, b: Expr) -> bool:
    from tvm import sym

    return bool(sym.Analyzer().can_prove_equal(a, b))
