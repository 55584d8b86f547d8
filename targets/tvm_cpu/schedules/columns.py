"""Rows many at a time, with the vector along a row axis: pooling, sums over images and softmax over channels, all with channels last.

A block of neighbouring columns has one register of sums for each vector of columns, and the reduced axes are walked
around it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import replace as changed
from typing import Any

from edgecc.targets.tvm_cpu.schedules.accumulate import allow_vectors_of_isnan
from edgecc.targets.tvm_cpu.schedules.code import Code, Expr, index
from edgecc.targets.tvm_cpu.schedules.column_block import Block
from edgecc.targets.tvm_cpu.schedules.core import Core
from edgecc.targets.tvm_cpu.schedules.loops import grid
from edgecc.targets.tvm_cpu.schedules.nest import Nest
from edgecc.targets.tvm_cpu.schedules.stage import Axis, extent_of, variables
from edgecc.targets.tvm_cpu.schedules.windows import holds_throughout, interior

Values = Mapping[Any, Expr]


@dataclass(frozen=True)
class _Segment:
    """A run of columns. `wide`: with vectors; else one by one."""

    nest: Nest
    first: Expr
    extent: Any
    wide: bool


@dataclass(frozen=True)
class Columns:
    """`column`: the row axis with the vector. `most`: vectors in a block."""

    nest: Nest
    core: Core
    column: Axis
    lanes: int
    most: int

    def code(self, parallel: bool) -> Code:
        allow_vectors_of_isnan()
        code = Code()
        self.nest.views.declare(code)
        segments = self._segments()
        rows = [a for a in self.nest.rows if a is not self.column]
        keeps = any(r.kept for r in self.nest.results)
        if len(segments) == 1 and segments[0].wide and not keeps:
            with grid(code, [*rows, Axis(self.column.var, self._blocks(self.column.extent))], parallel) as place:
                self._run(code, segments[0], place, place[self.column.var])
            return code
        with grid(code, rows, parallel) as place:  # blocks overlap: those that keep something run one after another
            for segment in segments:
                if segment.wide:
                    with code.loop("block", self._blocks(segment.extent)) as block:
                        self._run(code, segment, place, block)
                else:
                    with code.loop("column", segment.extent, start=segment.first) as c:
                        self._block(code, segment.nest, place, c, 1, 1)
        return code

    @property
    def is_disjoint(self) -> bool:
        """Whether no column is in two blocks."""
        extent = self.column.extent
        lanes, unroll = self._shape(extent)
        return isinstance(extent, int) and extent % (lanes * unroll) == 0 and len(self._segments()) == 1

    def _segments(self) -> list[_Segment]:
        """Where the windows of the columns are all inside, and the columns before and after."""
        from tvm import sym

        size, column = self.column.extent, self.column.var
        values = [v for r in self.nest.results for a in r.axes for v in holds_throughout(a, r.bounds)]
        values += [b.value for r in self.nest.results for b in r.bounds if b.axis is None]
        own = [v for v in values if column in variables(v)]
        found = interior(own, self.column)
        if found is None or not own:
            return [_Segment(self.nest, index(0), size, not own)]
        first, end = found
        results = tuple(changed(r, bounds=tuple(b for b in r.bounds if column not in variables(b.value))) for r in self.nest.results)
        simplify = sym.Analyzer().simplify
        return [
            _Segment(self.nest, index(0), extent_of(first), False),
            _Segment(changed(self.nest, results=results), first, extent_of(simplify(end - first)), True),
            _Segment(self.nest, end, extent_of(simplify(index(size) - end)), False),
        ]

    # -- blocks of columns

    def _shape(self, extent: Any) -> tuple[int, int]:
        """Lanes of a vector, and vectors of a block, so that few columns are computed twice."""
        lanes = self.lanes
        if not isinstance(extent, int):
            return lanes, self.most
        while lanes > max(extent, 1):
            lanes //= 2
        vectors = -(-extent // lanes)
        unrolls = range(1, min(self.most, max(extent // lanes, 1)) + 1)
        return lanes, min(unrolls, key=lambda u: (-(-vectors // u) * (u + 1), -u), default=1)

    def _blocks(self, extent: Any) -> Any:
        """How many blocks cover a run of columns; of a symbolic length at least one, which may be short."""
        from tvm import tirx

        lanes, unroll = self._shape(extent)
        width = lanes * unroll
        return -(-extent // width) if isinstance(extent, int) else tirx.max(tirx.floordiv(extent + (width - 1), index(width)), index(1))

    def _run(self, code: Code, segment: _Segment, place: Values, block: Expr) -> None:
        """One block of a run of columns; the last one ends with the run, and overlaps the one before."""
        from tvm import tirx

        nest, first, extent = segment.nest, segment.first, segment.extent
        lanes, unroll = self._shape(extent)
        width = lanes * unroll
        if isinstance(extent, int):
            whole = extent % width == 0
            at = block * width if whole else tirx.min(block * width, index(extent - width))
            self._block(code, nest, place, first + at, lanes, unroll)
            return
        with code.when(extent >= width):
            self._block(code, nest, place, first + tirx.min(block * width, extent - width), lanes, unroll)
        with code.when(extent < width):
            vectors = tirx.floordiv(extent, index(lanes))
            with code.loop("vector", vectors) as v:
                self._block(code, nest, place, first + v * lanes, lanes, 1)
            with code.loop("column", extent - vectors * lanes) as c:
                self._block(code, nest, place, first + vectors * lanes + c, 1, 1)

    def _block(self, code: Code, nest: Nest, place: Values, start: Expr, lanes: int, unroll: int) -> None:
        outer = {v: e for v, e in place.items() if not v.same_as(self.column.var)}
        Block(self.core, self.column, code, nest, outer, code.bind("start", start), lanes, unroll).write()
