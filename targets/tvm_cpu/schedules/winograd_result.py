"""The transform of the results: four neighbours along a row from six sums, and what is fused after the convolution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from edgecc.targets.tvm_cpu.schedules.code import Buffer, Code, Expr, index, vector
from edgecc.targets.tvm_cpu.schedules.contraction import Group
from edgecc.targets.tvm_cpu.schedules.core import Core
from edgecc.targets.tvm_cpu.schedules.epilogue import Epilogue, seed_value
from edgecc.targets.tvm_cpu.schedules.stage import replace
from edgecc.targets.tvm_cpu.schedules.winograd_form import OUTPUTS, SUMS, Form, Registers, vectors


class ResultTransform:
    """`sums`: what is transformed, [t, row, tile, column]."""

    def __init__(self, form: Form, epilogue: Epilogue, core: Core) -> None:
        from tvm import tirx

        self.form, self.epilogue, self.lanes = form, epilogue, core.lanes
        self.columns = int(form.contraction.column.extent)
        sizes = [SUMS, *form.outer, form.tiles, self.columns]
        self.sums: Buffer = tirx.decl_buffer([index(n) for n in sizes], "float32", "sums")

    def code(self) -> Code:
        """Threads share the rows."""
        code = Code()
        form = self.form
        whole, rest = divmod(int(form.x.extent), OUTPUTS)
        with code.loop("row", math.prod(form.outer), "parallel") as row:
            sums = code.flat(self.sums, math.prod(int(n) for n in self.sums.ty.shape))
            where = Group(tuple(a for a, _ in form.around)).split(row) if form.around else {}
            with code.loop("tile", whole) as tile:
                self._tile(code, sums, row, where, tile, OUTPUTS)
            if rest:
                self._tile(code, sums, row, where, index(whole), rest)
        return code

    def _tile(self, code: Code, sums: Buffer, row: Expr, where: dict[Any, Expr], tile: Expr, outputs: int) -> None:
        plane = math.prod(self.form.outer) * self.form.tiles * self.columns
        for column, lanes in vectors(code, self.columns, self.lanes):
            registers = Registers(code, lanes)
            source = code.bind("source", (row * self.form.tiles + tile) * self.columns + column)
            held = [registers.hold(f"m{t}", sums[vector(source + t * plane, lanes)]) for t in range(SUMS)]
            seed = None
            if self.epilogue.seed is not None:
                place = registers.place("seed")
                with code.loop("l", lanes, "vector") as lane:
                    code.store(place, [lane], seed_value(self.epilogue, column + lane))
                seed = place[(vector(0, lanes),)]
            for number, value in enumerate(_transformed(registers, held)[:outputs]):
                made = registers.place(f"y{number}")
                code.store(made, [vector(0, lanes)], value if seed is None else value + seed)
                with code.loop("l", lanes, "vector") as lane:
                    self._put(code, {**where, self.form.x.var: tile * OUTPUTS + number}, column + lane, made[(lane,)])

    def _put(self, code: Code, where: dict[Any, Expr], column: Expr, value: Expr) -> None:
        """Store what the epilogue makes of a result."""
        contraction = self.form.contraction
        placed = {**where, contraction.column.var: column}
        pairs = zip(self.epilogue.sums.axes, contraction.stage.axes, strict=True)
        position = {a.var: replace(contraction.where[s.var], placed) for a, s in pairs}
        for buffer, indices, result in self.epilogue.values(position, value):
            code.store(buffer, indices, result)


def _transformed(r: Registers, m: Sequence[Expr]) -> list[Expr]:
    """The inverse of the points 0, +-1, +-2 and infinity."""
    s1, d1 = r.hold("s1", m[1] + m[2]), r.hold("d1", m[1] - m[2])
    s2, d2 = r.hold("s2", m[3] + m[4]), r.hold("d2", m[3] - m[4])
    return [m[0] + s1 + s2, d1 + r.times(2, d2), s1 + r.times(4, s2), d1 + r.times(8, d2) + m[5]]
