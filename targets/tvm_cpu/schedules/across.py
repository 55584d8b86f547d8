"""Rows one by one, with the vector along each reduction: softmax or layer norm over the last axis, sums of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgecc.targets.tvm_cpu.schedules.accumulate import accumulate, allow_vectors_of_isnan, combined, fill, folded
from edgecc.targets.tvm_cpu.schedules.code import Buffer, Code, Expr, index
from edgecc.targets.tvm_cpu.schedules.core import Core
from edgecc.targets.tvm_cpu.schedules.invariant import computed
from edgecc.targets.tvm_cpu.schedules.loops import grid
from edgecc.targets.tvm_cpu.schedules.nest import Nest, Result
from edgecc.targets.tvm_cpu.schedules.pieces import pieces, unrolling, widths
from edgecc.targets.tvm_cpu.schedules.rows import is_costly
from edgecc.targets.tvm_cpu.schedules.stage import Axis, replace, variables
from edgecc.targets.tvm_cpu.schedules.windows import guarded, is_bounded, run_of

Values = Mapping[Any, Expr]
_CHEAP, _COSTLY = 8, 2  # vectors in the body of a loop


@dataclass(frozen=True)
class Across:
    """`result_lanes`: of a vector along the last axis of each result; `write_lanes`: along the last inner axis; 1 for none."""

    nest: Nest
    core: Core
    result_lanes: Sequence[int]
    write_lanes: int

    def code(self, parallel: bool) -> Code:
        allow_vectors_of_isnan()
        code = Code()
        self.nest.views.declare(code)
        with grid(code, self.nest.rows, parallel) as place:
            values: dict[Any, Expr] = dict(place)
            for result, lanes in zip(self.nest.results, self.result_lanes, strict=True):
                self._define(code, result.before, values)
                self._reduce(code, result, lanes, values)
            for write in self.nest.writes:
                self._define(code, write.before, values)
            self._write(code, values)
        return code

    @staticmethod
    def _define(code: Code, definitions: Sequence[tuple[Any, Expr]], values: dict[Any, Expr]) -> None:
        for variable, value in definitions:
            values[variable] = computed(code, replace(value, values))

    # -- results

    def _reduce(self, code: Code, result: Result, lanes: int, values: dict[Any, Expr]) -> None:
        *around, last = result.axes or (Axis(None, 1),)
        costly = any(is_costly(e) for e in result.values())
        length = None if is_bounded(last, result.bounds) else last.extent
        unroll = unrolling(length, lanes, _COSTLY if costly else _CHEAP) if result.combine else 1
        parts: dict[int, tuple[Buffer, int]] = {}
        for width, count in widths(length, lanes, unroll):
            parts[width] = code.local("part", count * width, result.dtype), count
            fill(code, parts[width][0], count, width, replace(result.start, values))
        held = code.local("term", lanes, result.dtype)

        def step(at: Expr, count: int, width: int) -> None:
            for i in range(count):
                with code.loop("l", width, "vector") as lane:
                    where = {**values, last.var: at + (i * width) + lane}
                    self._accumulate(code, result, parts[width][0], index(i * width) + lane, (held, lane), where)

        def nest(axes: Sequence[Axis]) -> None:
            first, extent = run_of(code, axes[0], result.bounds, values)
            if len(axes) == 1:
                pieces(code, first, extent, lanes, unroll, step)
                return
            with code.loop("k", extent, start=first) as k:
                values[axes[0].var] = k
                nest(axes[1:])

        with guarded(code, result.bounds, values):
            nest([*around, last])
        self._finish(code, result, parts, values)

    def _accumulate(self, code: Code, result: Result, part: Buffer, place: Expr, held: tuple[Buffer, Expr], where: Values) -> None:
        if result.kept is not None:
            code.store(result.kept.view, [replace(result.kept.offset, where)], replace(result.kept.value, where))
        term = replace(result.term, {**where, result.itself: part[(place,)]})
        accumulate(code, result.combine, part, place, term, held, self.core)

    def _finish(self, code: Code, result: Result, parts: Mapping[int, tuple[Buffer, int]], values: dict[Any, Expr]) -> None:
        """All parts become one value."""
        value: Any = None
        for width, (part, count) in parts.items():
            if result.combine is not None:
                folded(code, result.combine, part, count, width, self.core)
            one = part[(index(0),)]
            value = one if value is None or result.combine is None else combined(result.combine, value, one, self.core)
        values[result.value] = code.bind(result.value.name, value)

    # -- writes

    def _write(self, code: Code, values: dict[Any, Expr]) -> None:
        inner = {a.var for a in self.nest.inner}
        single = [w for w in self.nest.writes if not inner & variables(w.offset)]
        for write in single:
            code.store(write.view, [replace(write.offset, values)], replace(write.value, values))
        rest = [w for w in self.nest.writes if inner & variables(w.offset)]
        if not rest:
            return
        *around, last = self.nest.inner
        lanes = self.write_lanes
        unroll = unrolling(last.extent, lanes, _COSTLY if any(is_costly(w.value) for w in rest) else 4)

        def step(at: Expr, count: int, width: int) -> None:
            for i in range(count):
                with code.loop("l", width, "vector") as lane:
                    where = {**values, last.var: at + (i * width) + lane}
                    for write in rest:
                        code.store(write.view, [replace(write.offset, where)], replace(write.value, where))

        def nest(axes: Sequence[Axis]) -> None:
            if axes:
                with code.loop("i", axes[0].extent) as i:
                    values[axes[0].var] = i
                    nest(axes[1:])
            else:
                pieces(code, index(0), last.extent, lanes, unroll, step)

        nest(around)
