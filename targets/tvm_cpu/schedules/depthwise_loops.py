"""Loops of depthwise convolutions: tasks of rows, blocks of channels, tiles of columns, and the taps of a tile."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass

from edgecc.targets.tvm_cpu.schedules.code import Buffer, Code, Expr, index, vector
from edgecc.targets.tvm_cpu.schedules.core import Core
from edgecc.targets.tvm_cpu.schedules.depthwise_match import Depthwise
from edgecc.targets.tvm_cpu.schedules.depthwise_ranges import ceil_div, existing, exists, floor_div, interior, least, most, product
from edgecc.targets.tvm_cpu.schedules.depthwise_tile import FEW, LONG, Tile, offsets
from edgecc.targets.tvm_cpu.schedules.epilogue import seed_value

_EDGE_TILES = 2  # tiles at each end of a row that get code of their own; more are a loop over columns
_LINE = 64  # bytes of a cache line
_TASKS = 16  # rows that are enough to share among threads


@dataclass
class _Row:
    """Where a tile lies: `at` along each window but the last, `start` of its channels, `block` among the blocks,
    `strip` among the strips of columns.

    `top`: of interior rows, the first input position down.
    """

    at: list[Expr]
    start: Expr
    block: Expr
    strip: Expr
    top: Expr = 0


class Loops:
    """The loop nest of one convolution."""

    def __init__(self, code: Code, core: Core, conv: Depthwise, tile: Tile, packed: Buffer | None) -> None:
        self.code, self.conv, self.tile, self.packed = code, conv, tile, packed
        self.arch = core.arch
        self.across = conv.windows[-1]
        self.down = conv.windows[-2] if len(conv.windows) > 1 else None
        self.channels = int(conv.channels.extent)
        self.blocks = -(-self.channels // tile.lanes)
        self.strips = _strips(core, conv, tile)
        self.total_taps = math.prod(w.count for w in conv.windows)

    # -- outside of the tiles

    def write(self) -> None:
        rows = self.tile.rows
        sizes = [w.axis.extent for w in self.conv.windows[:-1]]
        if self.down is not None:
            sizes[-1] = ceil_div(sizes[-1], rows)
        groups, each = self._groups(sizes)
        with self.code.loop("task", product([*sizes, groups]), "parallel") as task:
            *at, group = self._decode(task, [*sizes, groups])
            if self.down is not None:
                at[-1] = self.code.bind("row", at[-1] * rows)
            first = group * each if groups > 1 else 0
            count = each if self.blocks % each == 0 else least(each, self.blocks - first)
            with self.code.loop("strip", self.strips) as strip, self.code.loop("block", count, start=first) as block:
                start = block * self.tile.lanes
                if self.channels % self.tile.lanes:
                    start = least(start, self.channels - self.tile.lanes)
                self._block(_Row(at, self.code.bind("channel", start), block, strip))

    def _groups(self, sizes: Sequence[Expr]) -> tuple[int, int]:
        """Into how many tasks the blocks of channels of a row are divided, and blocks of each: more than one where rows are few."""
        rows = product(sizes[1:])
        line = max(1, 16 // self.tile.lanes)
        if not isinstance(rows, int) or rows >= _TASKS or self.channels % self.tile.lanes:
            return 1, self.blocks
        each = max(line, -(-self.blocks * rows // _TASKS))
        return -(-self.blocks // each), each

    def _decode(self, task: Expr, sizes: Sequence[Expr]) -> list[Expr]:
        """The position along each of some axes from the number of a task."""
        from tvm import tirx

        positions: list[Expr] = []
        for number in reversed(range(len(sizes))):
            size = sizes[number]
            if isinstance(size, int) and size == 1:
                positions.insert(0, index(0))
                continue
            outermost = all(isinstance(s, int) and s == 1 for s in sizes[:number])
            positions.insert(0, task if outermost else self.code.bind("at", tirx.floormod(task, index(size))))
            if not outermost:
                task = self.code.bind("rest", tirx.floordiv(task, index(size)))
        return positions

    def _block(self, row: _Row) -> None:
        """All columns of the rows of one task for one block of channels."""
        from tvm import tirx

        code, down, rows = self.code, self.down, self.tile.rows
        if not self.tile.unrolled or down is None:
            self._columns(row, 1, self._held(row) if self.tile.unrolled else None)
            return
        y = row.at[-1]
        row.top = self._top(y)
        conditions = []
        if not (isinstance(down.axis.extent, int) and down.axis.extent % rows == 0):
            conditions.append(y + rows <= down.axis.extent)
        if down.low is not None:
            conditions.append(down.position(y, 0) >= down.low)
        if down.high is not None:
            conditions.append(down.position(y + (rows - 1), down.count - 1) < down.high)
        if not conditions:
            self._columns(row, rows, self._held(row))
            return
        inside = tirx.all(*conditions) if len(conditions) > 1 else conditions[0]
        with code.when(inside):
            self._columns(row, rows, self._held(row))
        with code.when(tirx.Not(inside)):
            count = least(rows, index(down.axis.extent) - y) if rows > 1 else 1
            with code.loop("r", count) as r:
                self._columns(_Row([*row.at[:-1], code.bind("y", y + r)], row.start, row.block, row.strip), 1, None)

    def _top(self, y: Expr) -> Expr:
        """The first input position of interior rows.

        The subtraction of the padding is hidden behind a maximum that changes nothing there: LLVM would find that input
        and output share an offset, and reach the input by negative distances, which few instructions can encode.
        """
        down = self.conv.windows[-2]
        if down.low is None:
            return down.position(y, 0)
        top = self.code.local("top", 1, "int64")
        self.code.store(top, [0], most(down.position(y, 0) - down.low, index(0)))
        return top[index(0)] + down.low

    def _held(self, row: _Row) -> dict[tuple[int, int], Buffer]:
        """The weights of a block in registers, by tap down and across."""
        down = self.down.count if self.down else 1
        return {(i, k): self._weight(row, self._taps(i), k) for i in range(down) for k in range(self.across.count)}

    def _taps(self, down: Expr) -> list[Expr]:
        """Taps along each axis but the columns, where those before the rows have one."""
        return [index(0)] * (len(self.conv.windows) - 2) + ([down] if self.down is not None else [])

    def _columns(self, row: _Row, rows: int, held: dict[tuple[int, int], Buffer] | None) -> None:
        """All columns of some rows. `held`: None where the taps down are a loop over those that exist."""
        width, size, window = self.across.axis.extent, self.tile.columns, self.across
        first, last = interior(window)
        if isinstance(width, int) and isinstance(first, int) and isinstance(last, int):
            before = -(-first // size)
            after = max(before, last // size)
            tiles = [*range(before)], [*range(after * size, width, size)]
            straight = window.count <= LONG and all(len(t) <= _EDGE_TILES for t in tiles)
            if straight:
                each = -(-(after - before) // self.strips)
                count = each if self.strips == 1 else least(each, after - before - row.strip * each)
                with self.code.loop("x", count) as x:
                    self._tile(row, rows, held, (x + row.strip * each + before) * size, size, None)
                starts = [t * size for t in tiles[0]] + (tiles[1] if before * size < width else [])
                with (
                    self.code.when(row.strip == 0) if self.strips > 1 else nullcontext(),
                    self.code.loop("edge", len(starts)) as edge,  # a loop, that LLVM does not mix the tiles in one block
                ):
                    for number, start in enumerate(starts):
                        with self.code.when(edge == number) if len(starts) > 1 else nullcontext():
                            self._tile(row, rows, held, index(start), min(size, width - start), start)
                return
        with self.code.loop("x", first) as x:
            self._edge(row, rows, x)
        whole = floor_div(last - first, size)
        with self.code.loop("x", whole) as x:
            self._tile(row, rows, held, first + x * size, size, None)
        with self.code.loop("x", last - first - whole * size, start=first + whole * size) as x:
            self._tile(row, rows, held, x, 1, None)
        with self.code.loop("x", width - last, start=last) as x:
            self._edge(row, rows, x)

    # -- tiles

    def _tile(self, row: _Row, rows: int, held: dict[tuple[int, int], Buffer] | None, x: Expr, columns: int, known: int | None) -> None:
        """Sums of `rows x columns`. `known`: the first column as a number, where some taps may not exist."""
        lanes, across = self.tile.lanes, self.across
        sums = self.code.local("sums", rows * columns * lanes, self.conv.dtype)
        there = [[exists(across, known, j, k) for k in range(across.count)] for j in range(columns)] if across.count <= LONG else []
        if held is None:
            self._start(row, sums, range(columns))
            with self._down(row) as (taps, positions):
                if across.count > LONG:
                    self._long(row, taps, positions, x, sums, columns)
                else:
                    factors: dict[tuple[int, int], Buffer] = {}
                    self._line(row, sums, x, there, {(0, 0): taps}, positions, factors)
        else:
            factors = dict(held)
            self._start(row, sums, range(rows * columns))
            for offset in offsets(self.down, rows) if self.down else [0]:
                uses = self._uses(offset, rows)
                positions = [*self._positions(row, len(self.conv.windows) - 2)]
                if self.down:
                    positions.append(row.top + offset)
                self._line(row, sums, x, there, {(r, i): self._taps(i) for r, i in uses}, positions, factors)
        for number in range(rows * columns):
            r, j = divmod(number, columns)
            at = [*row.at[:-1], row.at[-1] + r] if rows > 1 else row.at
            self._finish(row, at, x + j, sums, number * lanes)

    def _uses(self, offset: int, rows: int) -> list[tuple[int, int]]:
        """The output rows of a tile that an input row is for, each with its tap."""
        if self.down is None:
            return [(0, 0)]
        down = self.down
        pairs = [(r, divmod(offset - r * down.stride, down.dilation)) for r in range(rows)]
        return [(r, tap) for r, (tap, rest) in pairs if rest == 0 and 0 <= tap < down.count]

    def _line(
        self,
        row: _Row,
        sums: Buffer,
        x: Expr,
        exists: list[list[bool]],
        uses: dict[tuple[int, int], list[Expr]],
        positions: list[Expr],
        factors: dict[tuple[int, int], Buffer],
    ) -> None:
        """Add one row of the input to the sums of a tile. `uses`: (output row, tap down) and its taps as expressions."""
        across, lanes, columns = self.across, self.tile.lanes, len(exists)
        base = across.position(x, 0)
        hits = [(j * across.stride + k * across.dilation, k, j) for j in range(columns) for k in range(across.count) if exists[j][k]]
        if across.count > FEW:  # the weights do not all fit the registers: one after the other, and the inputs stay
            hits.sort(key=lambda hit: (hit[1], hit[2]))
        else:
            hits.sort(key=lambda hit: (hit[0], hit[2]))
        values: dict[int, Buffer] = {}
        for offset, k, j in hits:
            if offset not in values:
                values[offset] = self._input(row, [*positions, base + offset])
            for (r, i), taps in uses.items():
                if (i, k) not in factors:
                    factors[i, k] = self._weight(row, taps, k)
                self._add(sums, (r * columns + j) * lanes, values[offset], factors[i, k])

    def _long(self, row: _Row, taps: list[Expr], positions: list[Expr], x: Expr, sums: Buffer, columns: int) -> None:
        """Add one row of the input, tap by tap."""
        with self.code.loop("k", self.across.count) as k:
            factor = self._weight(row, taps, k)
            for j in range(columns):
                self._add(sums, j * self.tile.lanes, self._input(row, [*positions, self.across.position(x + j, k)]), factor)

    def _edge(self, row: _Row, rows: int, x: Expr) -> None:
        """One column of some rows, with loops over the taps that exist."""
        for r in range(rows):
            at = [*row.at[:-1], row.at[-1] + r] if r else row.at
            moved = _Row(at, row.start, row.block, row.strip)
            sums = self.code.local("sums", self.tile.lanes, self.conv.dtype)
            self._start(moved, sums, range(1))
            low, high = existing(self.across, x)
            with self._down(moved) as (taps, positions):
                low, high = self.code.bind("low", low), self.code.bind("high", high)
                with self.code.loop("k", high - low, start=low) as k:
                    value = self._input(moved, [*positions, self.across.position(x, k)])
                    self._add(sums, 0, value, self._weight(moved, taps, k))
            self._finish(moved, at, x, sums, 0)

    @contextmanager
    def _down(self, row: _Row) -> Iterator[tuple[list[Expr], list[Expr]]]:
        """Loops over the taps that exist along each axis but the columns: taps and input positions."""
        taps: list[Expr] = []
        positions: list[Expr] = []
        with ExitStack() as loops:
            for window, at in zip(self.conv.windows[:-1], row.at, strict=True):
                tap = index(0)
                if window.count > 1 or window.bounded:
                    low, high = (self.code.bind(n, v) for n, v in zip(("low", "high"), existing(window, at), strict=True))
                    tap = loops.enter_context(self.code.loop("i", high - low, start=low))
                taps.append(tap)
                positions.append(window.position(at, tap))
            yield taps, positions

    def _positions(self, row: _Row, count: int) -> list[Expr]:
        """Input positions along the first axes, which have one tap each."""
        return [w.position(at, 0) for w, at in zip(self.conv.windows[: max(count, 0)], row.at, strict=False)]

    # -- vectors

    def _start(self, row: _Row, sums: Buffer, numbers: Sequence[int]) -> None:
        for number in numbers:
            with self.code.loop("v", self.tile.lanes, "vector") as v:
                self.code.store(sums, [number * self.tile.lanes + v], seed_value(self.conv.epilogue, row.start + v))

    def _add(self, sums: Buffer, offset: int, value: Buffer, factor: Buffer) -> None:
        at, whole = vector(offset, self.tile.lanes), vector(0, self.tile.lanes)
        self.code.store(sums, [at], sums[at] + self._widened(value[whole]) * self._widened(factor[whole]))

    def _widened(self, factor: Expr) -> Expr:
        """A factor in the dtype of the sums."""
        from tvm import tirx

        lanes = self.tile.lanes
        same = self.conv.factors == self.conv.dtype
        return factor if same else tirx.Cast(self.conv.dtype if lanes == 1 else f"{self.conv.dtype}x{lanes}", factor)

    def _input(self, row: _Row, positions: Sequence[Expr]) -> Buffer:
        """The input elements of a block of output channels."""
        code, conv, lanes, each = self.code, self.conv, self.tile.lanes, self.conv.multiplier
        value = code.local("value", lanes, conv.factors)
        if each == 1:
            with code.loop("v", lanes, "vector") as v:
                code.store(value, [v], conv.element(positions, row.start + v))
            return value
        for lane in range(lanes):
            code.store(value, [lane], conv.element(positions, floor_div(row.start + lane, each)))
        return value

    def _weight(self, row: _Row, taps: Sequence[Expr], tap: Expr) -> Buffer:
        """The weights of a block for one tap."""
        code, conv, lanes = self.code, self.conv, self.tile.lanes
        factor = code.local("factor", lanes, conv.factors)
        every = [*taps, tap]
        with code.loop("v", lanes, "vector") as v:
            if self.packed is None:
                code.store(factor, [v], conv.factor(every, row.start + v))
            else:
                number: Expr = 0
                for window, t in zip(conv.windows, every, strict=True):
                    number = number * window.count + t
                code.store(factor, [v], self.packed[(row.block * self.total_taps + number) * lanes + v])
        return factor

    def _finish(self, row: _Row, at: Sequence[Expr], x: Expr, sums: Buffer, offset: int) -> None:
        """The epilogue of one vector of sums."""
        from edgecc.targets.tvm_cpu.vector_math.extremes import select_to_max

        axes = [*self.conv.windows[:-1], self.across]
        with self.code.loop("v", self.tile.lanes, "vector") as v:
            where = {w.axis.var: p for w, p in zip(axes, [*at, x], strict=True)}
            where[self.conv.channels.var] = row.start + v
            mine = {a.var: where[b.var] for a, b in zip(self.conv.epilogue.sums.axes, self.conv.stage.axes, strict=True)}
            for output, place, value in self.conv.epilogue.values(mine, sums[offset + v]):
                self.code.store(output, place, select_to_max(value, self.arch))


def _strips(core: Core, conv: Depthwise, tile: Tile) -> int:
    """Into how many strips the columns are divided.

    A block of channels is a part of each cache line that it touches. The lines under a strip have to stay in most of the
    first cache until the next block reads its part of them.
    """
    across = conv.windows[-1]
    if not isinstance(across.axis.extent, int):
        return 1
    deep = len(offsets(conv.windows[-2], tile.rows)) if len(conv.windows) > 1 else 1
    line = min(_LINE, int(conv.channels.extent) * 4)
    tiles = across.axis.extent // tile.columns
    return max(1, min(tiles // 2, round(deep * across.axis.extent * across.stride * line / (0.75 * core.l1))))
