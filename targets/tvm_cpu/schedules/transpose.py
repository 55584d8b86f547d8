"""Transposes in blocks: rows of the input are loaded as vectors, turned in registers, and stored as rows of the output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edgecc.targets.tvm_cpu.schedules.access import equal
from edgecc.targets.tvm_cpu.schedules.code import Buffer, Code, Expr, index, vector
from edgecc.targets.tvm_cpu.schedules.stage import replace
from edgecc.targets.tvm_cpu.schedules.values import Values, conditions
from edgecc.targets.tvm_cpu.schedules.walk import Axis, Load, Walk

Share = Callable[[Axis, Expr], tuple[Expr, Expr]]
Once = Callable[[Callable[[], None]], None]
_BYTES = 16  # of a vector that is turned: wider ones cross lanes on x86


@dataclass(frozen=True)
class Blocks:
    """Blocks of `side x side`. `rows`: the axis along which the turned loads are dense. `columns`: that of the output.

    `inputs` stand for the turned loads in `values`.
    """

    walk: Walk
    rows: Axis
    columns: Axis
    turned: tuple[Any, ...]
    inputs: tuple[Any, ...]
    values: Values
    side: int

    def write(self, code: Code, where: dict[Any, Expr], shared: Axis | None, share: Share, once: Once) -> None:
        """All elements along the two axes. `share`: a task's part of the steps along an axis; `once`: for one task."""
        side = self.side
        many = [_floor_div(a.extent, side) for a in (self.rows, self.columns)]
        (top, height), (left, width) = (share(a, m) for a, m in zip((self.rows, self.columns), many, strict=True))
        across = isinstance(many[0], int) and (not isinstance(many[1], int) or many[0] <= many[1])
        loops = [("r", top, height), ("c", left, width)]
        first, second = reversed(loops) if across else loops  # the shorter axis inside: its cache lines stay until the next round
        with code.loop(first[0], first[2], start=first[1]) as a, code.loop(second[0], second[2], start=second[1]) as b:
            r, c = (b, a) if across else (a, b)
            self._block(code, where, r * side, c * side)
        right, below = self.columns.extent - many[1] * side, self.rows.extent - many[0] * side
        mine = {"rows": shared is self.rows, "columns": shared is self.columns}

        def beside() -> None:
            self._plain(code, where, (top * side, height * side), (many[1] * side, right))

        def under() -> None:
            self._plain(code, where, (many[0] * side, below), (left * side, width * side))

        def corner() -> None:
            self._plain(code, where, (many[0] * side, below), (many[1] * side, right))

        for part, alone in ((beside, mine["columns"]), (under, mine["rows"]), (corner, mine["rows"] or mine["columns"])):
            once(part) if alone else part()

    def _block(self, code: Code, where: dict[Any, Expr], row: Expr, column: Expr) -> None:
        side = self.side
        tiles: list[Buffer] = []
        for load in self.turned:
            dtype = str(load.source.ty.dtype)
            tile = code.local("tile", side * side, dtype)
            for c in range(side):
                with code.loop("v", side, "vector") as v:
                    at = {**where, **self.columns.where(column + c), **self.rows.where(row + v)}
                    code.store(tile, [c * side + v], replace(load, at))
            turned = code.local("turned", side * side, dtype)
            vectors = [tile[vector(c * side, side)] for c in range(side)]
            for number, value in enumerate(_turn(code, vectors)):
                code.store(turned, [vector(number * side, side)], value)
            tiles.append(turned)
        for r in range(side):

            def lane(v: Expr, r: int = r) -> dict[Any, Expr]:
                at = {**where, **self.rows.where(row + r), **self.columns.where(column + v)}
                return {**at, **{x: tile[r * side + v] for x, tile in zip(self.inputs, tiles, strict=True)}}

            self.walk.emit_vector(code, lane, side, self.values)

    def _plain(self, code: Code, where: dict[Any, Expr], rows: tuple[Expr, Expr], columns: tuple[Expr, Expr]) -> None:
        """Element by element. Ranges are start and count."""
        with code.loop("r", rows[1], start=rows[0]) as r, code.loop("c", columns[1], start=columns[0]) as c:
            self.walk.emit(code, {**where, **self.rows.where(r), **self.columns.where(c)})


def transposes(walk: Walk) -> Blocks | None:
    """The blocks of a walk; None where no load is dense along another axis than the output."""
    from tvm import tirx

    if len(walk.axes) < 2 or any(conditions(v) for v in walk.region.values.expressions):
        return None
    columns, side = walk.axes[-1], walk.lanes(_BYTES)
    candidates: dict[int, list[Load]] = {}
    for load in walk.loads:
        number = _dense_axis(walk, load)
        if number is not None and not any(_same(load.load, x.load) for x in candidates.get(number, [])):
            candidates.setdefault(number, []).append(load)
    if not candidates or side < 2:
        return None
    number = max(candidates, key=lambda n: len(candidates[n]))
    rows = walk.axes[number]
    if any(isinstance(a.extent, int) and a.extent < side for a in (rows, columns)):
        return None
    turned = tuple(x.load for x in candidates[number])
    inputs = tuple(tirx.Var(x.source.name, str(x.source.ty.dtype)) for x in turned)

    return Blocks(walk, rows, columns, turned, inputs, walk.region.values.with_loads(turned, inputs), side)


def _dense_axis(walk: Walk, load: Load) -> int | None:
    """The axis along which a load is dense, where it is neither dense nor constant along the output's."""
    names = {x for x, _ in walk.region.values.shared}
    if names & load.variables:
        return None
    stride = walk.stride(load, walk.axes[-1])
    if stride is None or equal(stride, 0) or equal(stride, 1):
        return None
    for number, axis in enumerate(walk.axes[:-1]):
        along = walk.stride(load, axis)
        if along is not None and equal(along, 1):
            return number
    return None


def _turn(code: Code, rows: Sequence[Expr]) -> list[Expr]:
    """The columns of a square of vectors: rows are interleaved with those half of the square further, log2(side) times."""
    from tvm import tirx

    side = len(rows)
    low = [n // 2 + side * (n % 2) for n in range(side)]
    high = [n + side // 2 for n in low]
    step, vectors = side, list(rows)
    while step > 1:
        turned: list[Expr] = []
        for n in range(side // 2):
            for order in (low, high):
                shuffle = tirx.Shuffle([vectors[n], vectors[n + side // 2]], [index(i) for i in order])
                turned.append(code.bind("turned", shuffle))
        step, vectors = step // 2, turned
    return vectors


def _floor_div(a: Expr, b: int) -> Expr:
    from tvm import tirx

    return a // b if isinstance(a, int) else tirx.floordiv(a, index(b))


def _same(a: Any, b: Any) -> bool:
    import tvm_ffi

    return bool(tvm_ffi.structural_equal(a, b))
