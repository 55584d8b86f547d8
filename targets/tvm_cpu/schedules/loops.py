"""Loops over rows: how many of them the threads share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from edgecc.targets.tvm_cpu.schedules.code import Code, Expr, index
from edgecc.targets.tvm_cpu.schedules.stage import Axis

_ENOUGH = 32  # independent parts, for the threads of any of these chips


@contextmanager
def grid(code: Code, axes: Sequence[Axis], parallel: bool) -> Iterator[dict[Any, Expr]]:
    """Loops over the axes, with the position along each; the first ones are one parallel loop."""
    shared = shared_axes(axes) if parallel else 0
    if not shared:
        yield from _serial(code, axes, {})
        return
    total: Any = 1
    for axis in axes[:shared]:
        total = total * axis.extent
    with code.loop("p", total, "parallel") as p:
        yield from _serial(code, axes[shared:], _parts(code, p, axes[:shared]))


def shared_axes(axes: Sequence[Axis]) -> int:
    """How many of the first axes make enough independent parts; a symbolic size counts as one."""
    parts = 1
    for number, axis in enumerate(axes):
        if parts >= _ENOUGH:
            return number
        parts *= axis.extent if isinstance(axis.extent, int) else 1
    return len(axes)


def _parts(code: Code, p: Expr, axes: Sequence[Axis]) -> dict[Any, Expr]:
    from tvm import tirx

    place: dict[Any, Expr] = {}
    for axis in reversed(axes[1:]):
        place[axis.var] = code.bind(axis.var.name, tirx.floormod(p, index(axis.extent)))
        p = code.bind("rest", tirx.floordiv(p, index(axis.extent)))
    place[axes[0].var] = p
    return place


def _serial(code: Code, axes: Sequence[Axis], place: dict[Any, Expr]) -> Iterator[dict[Any, Expr]]:
    if not axes:
        yield place
        return
    with code.loop(axes[0].var.name, axes[0].extent) as i:
        yield from _serial(code, axes[1:], {**place, axes[0].var: i})
