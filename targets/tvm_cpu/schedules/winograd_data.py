"""The transform of the data: six values of six neighbours, for every fourth place along a row and every channel."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgecc.targets.tvm_cpu.schedules.code import Buffer, Code, Expr, index, vector
from edgecc.targets.tvm_cpu.schedules.core import Core
from edgecc.targets.tvm_cpu.schedules.operands import ancestors
from edgecc.targets.tvm_cpu.schedules.region import Range, Space, simplifier
from edgecc.targets.tvm_cpu.schedules.stage import Kernel, reads, replace
from edgecc.targets.tvm_cpu.schedules.values import Values, conditions, values_of
from edgecc.targets.tvm_cpu.schedules.winograd_form import OUTPUTS, SUMS, TAPS, Form, Registers, vectors

_EDGE = 3  # positions at either end of an axis that may need code of their own

Section = tuple[int, int]  # where it starts, and its extent


@dataclass(frozen=True)
class DataTransform:
    """`made`: the result [t, row, tile, channel]. `sections`: parts of each axis in which no condition is left.

    The axes are the rows of data, then the tiles.
    """

    form: Form
    kernel: Kernel
    lanes: int
    made: Buffer
    sections: tuple[tuple[Section, ...], ...]

    @classmethod
    def of(cls, form: Form, kernel: Kernel, core: Core) -> DataTransform | None:
        """None where the data is under conditions that more than the edges of the rows decide."""
        from tvm import tirx

        sizes = [SUMS, *form.data_rows, form.tiles, int(form.channel.extent)]
        made = tirx.decl_buffer([index(n) for n in sizes], "float32", "data")
        found = cls(form, kernel, core.lanes, made, ())
        sections = found._find_sections()
        return None if sections is None else cls(form, kernel, core.lanes, made, sections)

    def reads(self) -> list[Buffer]:
        """The parameters that the data is made of."""
        source = self.form.contraction.left.load.source
        stage = self.kernel.stage_of(source)
        if stage is None:
            return [source]
        found = [b for s in ancestors(self.kernel, stage) for b in reads(s.update)]
        return [p for p in self.kernel.params if any(p.same_as(b) for b in found)]

    def code(self) -> Code:
        """Threads share the rows."""
        code = Code()
        rows = self.form.data_rows
        with code.loop("row", math.prod(rows), "parallel") as row:
            made = code.flat(self.made, math.prod(int(n) for n in self.made.ty.shape))
            where = [code.bind("at", w) for w in _split(row, rows)]
            for parts in itertools.product(*self.sections[:-1]):
                chosen = [(w, p) for w, p, n in zip(where, parts, rows, strict=True) if p != (0, n)]
                with _when(code, chosen):
                    places = [index(p[0]) if p[1] == 1 else w for w, p in zip(where, parts, strict=True)]
                    self._row(code, made, row, places, parts)
        return code

    def _row(self, code: Code, made: Buffer, row: Expr, places: Sequence[Expr], parts: Sequence[Section]) -> None:
        channels, tiles = int(self.form.channel.extent), self.form.tiles
        plane = math.prod(self.form.data_rows) * tiles * channels
        for start, count in self.sections[-1]:
            with code.loop("tile", count, start=start) as tile:
                for channel, lanes in vectors(code, channels, self.lanes):
                    registers = Registers(code, lanes)
                    data = []
                    for i in range(SUMS):
                        place = registers.place(f"d{i}")
                        with code.loop("l", lanes, "vector") as lane:
                            value = self._value(places, parts, tile, (start, count), i, channel + lane)
                            code.store(place, [lane], value.results[0])
                        data.append(place[(vector(0, lanes),)])
                    target = code.bind("target", (row * tiles + tile) * channels + channel)
                    for t, value in enumerate(_transformed(registers, data)):
                        code.store(made, [vector(target + t * plane, lanes)], value)

    def _value(self, places: Sequence[Expr], parts: Sequence[Section], tile: Expr, part: Section, i: int, channel: Expr) -> Values:
        """The data at row `places` and channel `channel`, `i` after the start of a tile; what is beyond the last taps is that at them.

        `parts`, `part`: what is known of the place.
        """
        form = self.form
        last = int(form.x.extent) + TAPS - 2
        x = tile * OUTPUTS + i
        if part[1] == 1:
            x = index(min(part[0] * OUTPUTS + i, last))
        put: dict[Any, Expr] = {form.x.var: x, form.taps.var: 0, form.channel.var: channel}
        for (axis, taps), place in zip(form.around, places, strict=True):
            put[axis.var] = place
            if taps is not None:
                put[taps.var] = 0
        load = form.contraction.left.load
        indices = [replace(index(at), put) for at in load.indices]
        if self.kernel.stage_of(load.source) is None:
            return Values((load.source[tuple(indices)],), ())
        known = [(v, p) for v, p in [*zip(places, parts, strict=True), (tile, part)] if p[1] > 1]
        space = Space(tuple(Range(v, start, count) for v, (start, count) in known), ())
        return values_of(self.kernel, [load.source], indices, simplifier(space))

    def _find_sections(self) -> tuple[tuple[Section, ...], ...] | None:
        """For each axis its edges one by one, and all between them at once."""
        sizes = [*self.form.data_rows, self.form.tiles]
        middle: list[Section] = [(n // 2, 1) for n in sizes]
        found: list[tuple[Section, ...]] = []
        for number, size in enumerate(sizes):
            for low, high in sorted(itertools.product(range(_EDGE + 1), repeat=2), key=sum):
                inner = (low, size - low - high)
                if inner[1] >= 1 and self._is_clear([*middle[:number], inner, *middle[number + 1 :]], number):
                    edges = [(i, 1) for i in (*range(low), *range(size - high, size))]
                    found.append((*edges[:low], inner, *edges[low:]))
                    break
            else:
                return None
        return tuple(found)

    def _is_clear(self, parts: Sequence[Section], number: int) -> bool:
        """Whether no condition is left in a section of one axis, where the others are in their middle."""
        from tvm import tirx

        *places, tile = [index(s) if n == 1 else tirx.Var("at", "int64") for s, n in parts]
        last = int(self.form.x.extent) + TAPS - 2
        if number == len(places) and parts[-1][1] > 1 and (sum(parts[-1]) - 1) * OUTPUTS + SUMS - 1 > last:
            return False
        channel = tirx.Var("channel", "int64")
        values = [self._value(places, parts[:-1], tile, parts[-1], i, channel) for i in range(SUMS)]
        return not any(v.shared or any(map(conditions, v.expressions)) for v in values)


def _transformed(r: Registers, d: Sequence[Expr]) -> list[Expr]:
    """The transform of the points 0, +-1, +-2 and infinity."""
    even, odd = r.hold("even", d[4] - r.times(4, d[2])), r.hold("odd", d[3] - r.times(4, d[1]))
    near, far = r.hold("near", d[4] - d[2]), r.hold("far", d[3] - d[1])
    return [
        d[4] - r.times(5, d[2]) + r.times(4, d[0]),
        even + odd,
        even - odd,
        near + r.times(2, far),
        near - r.times(2, far),
        d[5] - r.times(5, d[3]) + r.times(4, d[1]),
    ]


def _when(code: Code, chosen: Sequence[tuple[Expr, Section]]) -> Any:
    """A block for the positions that are in their sections."""
    from tvm import tirx

    if not chosen:
        return contextlib.nullcontext()
    condition: Any = None
    for at, (start, count) in chosen:
        here = at.equal(start) if count == 1 else tirx.And(at >= start, at < start + count)
        condition = here if condition is None else tirx.And(condition, here)
    return code.when(condition)


def _split(position: Expr, sizes: Sequence[int]) -> list[Expr]:
    """The position along each axis, from the position in all of them."""
    from tvm import tirx

    found: list[Expr] = []
    for number, size in reversed(list(enumerate(sizes))):
        found.insert(0, position if number == 0 else tirx.floormod(position, index(size)))
        position = tirx.floordiv(position, index(size)) if number else position
    return found
