"""Depthwise convolutions, channels last: each output channel is a small window over one input channel.

Channels are the lanes. A tile of output rows and columns is summed in registers, so that an input element is loaded once
for all windows that it lies in, and the weights stay in registers along a row. Padding is never copied nor tested inside:
columns at the border have code of their own with only the taps that exist, and rows at the border loop over those.
The last block of channels starts early enough to be full, and computes some of the block before again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgecc.targets.tvm_cpu.schedules.code import Buffer, Code, Expr, index, vector
from edgecc.targets.tvm_cpu.schedules.core import Core
from edgecc.targets.tvm_cpu.schedules.depthwise_match import Depthwise, Window, match
from edgecc.targets.tvm_cpu.schedules.depthwise_tile import FEW, LONG, Tile, choose, offsets
from edgecc.targets.tvm_cpu.schedules.epilogue import seed_value
from edgecc.targets.tvm_cpu.schedules.plan import Operand, Packed, Param, Plan, Step, kernel_function
from edgecc.targets.tvm_cpu.schedules.stage import Kernel, loads

_EDGE_TILES = 2  # tiles at each end of a row that get code of their own; more are a loop over columns
_LINE = 64  # bytes of a cache line
_TASKS = 16  # rows that are enough to share among threads


def depthwise(kernel: Kernel, core: Core, constants: frozenset[int]) -> Plan | None:
    """The plan of a depthwise convolution [N, (D,) (H,) W, C] with its epilogue; None for any other function.

    `constants`: numbers of the parameters that are constants, whose layout may change.
    """
    conv = match(kernel)
    if conv is None:
        return None
    tile = choose(core, conv)
    number = next((i for i, p in enumerate(kernel.params) if p.same_as(conv.weight.source) and i in constants), None)
    packed = _Weights(conv, tile.lanes) if number is not None else None
    code = Code()
    _Loops(code, core, conv, tile, packed.buffer if packed else None).write()
    reads: list[Operand] = []
    buffers: list[Buffer] = []
    for i, param in enumerate(kernel.params):
        if kernel.is_output(param):
            continue
        moved = packed is not None and i == number
        reads.append(Packed(i, packed.pack) if packed and moved else Param(i))
        buffers.append(packed.buffer if packed and moved else param)
    function = kernel_function([*buffers, *kernel.outputs], kernel.sizes, code)
    own = _own_elements(kernel, conv) if conv.channels.extent % tile.lanes == 0 else []
    in_place = [n for n, r in enumerate(reads) if isinstance(r, Param) and r.index in own]
    step = Step(kernel.name, reads, kernel.outputs, function, list(range(len(kernel.outputs))), in_place)
    form = "unrolled" if tile.unrolled else "looped"
    return Plan(f"depthwise {tile.rows}x{tile.columns}x{tile.lanes} {form}", [step])


class _Weights:
    """The weights as [block][tap][lane], where the last block starts early enough to be full."""

    def __init__(self, conv: Depthwise, lanes: int) -> None:
        from tvm import tirx

        channels = int(conv.channels.extent)
        self._conv = conv
        self._counts = [w.count for w in conv.windows]
        self._channel = np.minimum(np.arange(-(-channels // lanes)) * lanes, channels - lanes)[:, None] + np.arange(lanes)
        size = self._channel.size * int(np.prod(self._counts))
        self.buffer = tirx.decl_buffer([index(size)], conv.dtype, "packed_weight")

    def pack(self, weight: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        blocks, lanes = self._channel.shape
        grids = np.meshgrid(np.arange(blocks), *[np.arange(n) for n in self._counts], np.arange(lanes), indexing="ij")
        where = self._conv.factor_at(grids[1:-1], self._channel[grids[0], grids[-1]])
        values = {variable: np.asarray(value) for variable, value in where.items()}
        at = [np.broadcast_to(_evaluate(i, values), grids[0].shape) for i in self._conv.weight.indices]
        return np.ascontiguousarray(weight[tuple(at)]).reshape(-1)


def _evaluate(value: Any, where: dict[Any, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """An index expression for arrays of positions."""
    from tvm import tirx

    operations: dict[Any, Any] = {
        tirx.Add: np.add,
        tirx.Sub: np.subtract,
        tirx.Mul: np.multiply,
        tirx.FloorDiv: np.floor_divide,
        tirx.FloorMod: np.mod,
    }
    if type(value) in operations:
        result: np.ndarray[Any, Any] = operations[type(value)](_evaluate(value.a, where), _evaluate(value.b, where))
        return result
    return where[value] if value in where else np.asarray(int(value))


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


class _Loops:
    """The loop nest of one convolution."""

    def __init__(self, code: Code, core: Core, conv: Depthwise, tile: Tile, packed: Buffer | None) -> None:
        self.code, self.conv, self.tile, self.packed = code, conv, tile, packed
        self.arch = core.arch
        self.across = conv.windows[-1]
        self.down = conv.windows[-2] if len(conv.windows) > 1 else None
        self.channels = int(conv.channels.extent)
        self.blocks = -(-self.channels // tile.lanes)
        self.strips = _strips(core, conv, tile)
        self.total_taps = int(np.prod([w.count for w in conv.windows]))

    # -- outside of the tiles

    def write(self) -> None:
        rows = self.tile.rows
        sizes = [w.axis.extent for w in self.conv.windows[:-1]]
        if self.down is not None:
            sizes[-1] = _ceil_div(sizes[-1], rows)
        groups, each = self._groups(sizes)
        with self.code.loop("task", _product([*sizes, groups]), "parallel") as task:
            *at, group = self._decode(task, [*sizes, groups])
            if self.down is not None:
                at[-1] = self.code.bind("row", at[-1] * rows)
            first = group * each if groups > 1 else 0
            count = each if self.blocks % each == 0 else _least(each, self.blocks - first)
            with self.code.loop("strip", self.strips) as strip, self.code.loop("block", count, start=first) as block:
                start = block * self.tile.lanes
                if self.channels % self.tile.lanes:
                    start = _least(start, self.channels - self.tile.lanes)
                self._block(_Row(at, self.code.bind("channel", start), block, strip))

    def _groups(self, sizes: Sequence[Expr]) -> tuple[int, int]:
        """Into how many tasks the blocks of channels of a row are divided, and blocks of each: more than one where rows are few."""
        rows = _product(sizes[1:])
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
            count = _least(rows, index(down.axis.extent) - y) if rows > 1 else 1
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
        self.code.store(top, [0], _most(down.position(y, 0) - down.low, index(0)))
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
        width, most, window = self.across.axis.extent, self.tile.columns, self.across
        first, last = _interior(window)
        if isinstance(width, int) and isinstance(first, int) and isinstance(last, int):
            before = -(-first // most)
            after = max(before, last // most)
            tiles = [*range(before)], [*range(after * most, width, most)]
            straight = window.count <= LONG and all(len(t) <= _EDGE_TILES for t in tiles)
            if straight:
                each = -(-(after - before) // self.strips)
                count = each if self.strips == 1 else _least(each, after - before - row.strip * each)
                with self.code.loop("x", count) as x:
                    self._tile(row, rows, held, (x + row.strip * each + before) * most, most, None)
                starts = [t * most for t in tiles[0]] + (tiles[1] if before * most < width else [])
                with (
                    self.code.when(row.strip == 0) if self.strips > 1 else nullcontext(),
                    self.code.loop("edge", len(starts)) as edge,  # a loop, that LLVM does not mix the tiles in one block
                ):
                    for number, start in enumerate(starts):
                        with self.code.when(edge == number) if len(starts) > 1 else nullcontext():
                            self._tile(row, rows, held, index(start), min(most, width - start), start)
                return
        with self.code.loop("x", first) as x:
            self._edge(row, rows, x)
        whole = _floor_div(last - first, most)
        with self.code.loop("x", whole) as x:
            self._tile(row, rows, held, first + x * most, most, None)
        with self.code.loop("x", last - first - whole * most, start=first + whole * most) as x:
            self._tile(row, rows, held, x, 1, None)
        with self.code.loop("x", width - last, start=last) as x:
            self._edge(row, rows, x)

    # -- tiles

    def _tile(self, row: _Row, rows: int, held: dict[tuple[int, int], Buffer] | None, x: Expr, columns: int, known: int | None) -> None:
        """Sums of `rows x columns`. `known`: the first column as a number, where some taps may not exist."""
        lanes, across = self.tile.lanes, self.across
        sums = self.code.local("sums", rows * columns * lanes, self.conv.dtype)
        exists = [[_exists(across, known, j, k) for k in range(across.count)] for j in range(columns)] if across.count <= LONG else []
        if held is None:
            self._start(row, sums, range(columns))
            with self._down(row) as (taps, positions):
                if across.count > LONG:
                    self._long(row, taps, positions, x, sums, columns)
                else:
                    factors: dict[tuple[int, int], Buffer] = {}
                    self._line(row, sums, x, exists, {(0, 0): taps}, positions, factors)
        else:
            factors = dict(held)
            self._start(row, sums, range(rows * columns))
            for offset in offsets(self.down, rows) if self.down else [0]:
                uses = self._uses(offset, rows)
                positions = [*self._positions(row, len(self.conv.windows) - 2)]
                if self.down:
                    positions.append(row.top + offset)
                self._line(row, sums, x, exists, {(r, i): self._taps(i) for r, i in uses}, positions, factors)
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
            low, high = _existing(self.across, x)
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
                    low, high = (self.code.bind(n, v) for n, v in zip(("low", "high"), _existing(window, at), strict=True))
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
        self.code.store(sums, [at], sums[at] + value[whole] * factor[whole])

    def _input(self, row: _Row, positions: Sequence[Expr]) -> Buffer:
        """The input elements of a block of output channels."""
        code, conv, lanes, each = self.code, self.conv, self.tile.lanes, self.conv.multiplier
        value = code.local("value", lanes, conv.dtype)
        if each == 1:
            with code.loop("v", lanes, "vector") as v:
                code.store(value, [v], conv.element(positions, row.start + v))
            return value
        for lane in range(lanes):
            code.store(value, [lane], conv.element(positions, _floor_div(row.start + lane, each)))
        return value

    def _weight(self, row: _Row, taps: Sequence[Expr], tap: Expr) -> Buffer:
        """The weights of a block for one tap."""
        code, conv, lanes = self.code, self.conv, self.tile.lanes
        factor = code.local("factor", lanes, conv.dtype)
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

    A block of channels is a part of each cache line that it touches. The lines under a strip have to stay in half of the
    first cache until the next block reads its part of them.
    """
    across = conv.windows[-1]
    if not isinstance(across.axis.extent, int):
        return 1
    deep = len(offsets(conv.windows[-2], tile.rows)) if len(conv.windows) > 1 else 1
    line = min(_LINE, int(conv.channels.extent) * 4)
    tiles = across.axis.extent // tile.columns
    return max(1, min(tiles // 2, round(deep * across.axis.extent * across.stride * line / (core.l1 / 2))))


def _own_elements(kernel: Kernel, conv: Depthwise) -> list[int]:
    """Parameters of which each output element needs the element at its own place alone: the output may overwrite them."""
    output = kernel.outputs[0]
    axes = kernel.stage_of(output)
    if axes is None or axes.is_reduction or len(kernel.outputs) > 1:
        return []
    place = [a.var for a in axes.axes]
    value = kernel.element(output, place)
    found = []
    for number, param in enumerate(kernel.params):
        taken = [x for x in loads(value) if x.source.same_as(param)]
        used = any(param.same_as(b) for b in (conv.data.source, conv.weight.source)) or (
            conv.inside is not None and any(param.same_as(x.source) for x in loads(kernel.inline(conv.inside)))
        )
        alike = str(param.ty.dtype) == str(output.ty.dtype) and len(param.ty.shape) == len(place)
        if taken and not used and alike and all(_at(x.indices, place) for x in taken):
            found.append(number)
    return found


def _at(indices: Sequence[Any], place: Sequence[Any]) -> bool:
    return all(hasattr(i, "same_as") and i.same_as(p) for i, p in zip(indices, place, strict=True))


# -- ranges


def _interior(window: Window) -> tuple[Expr, Expr]:
    """The range of outputs for which every tap exists."""
    extent = window.axis.extent
    first = 0 if window.low is None else _ceil_div(_most(window.low - window.offset, 0), window.stride)
    first = _least(first, extent)
    if window.high is None:
        return first, extent
    room = _most(window.high - window.offset - (window.count - 1) * window.dilation + window.stride - 1, 0)
    return first, _most(first, _least(_floor_div(room, window.stride), extent))


def _existing(window: Window, at: Expr) -> tuple[Expr, Expr]:
    """The range of taps that exist for one output.

    Numerators grow with the output and are not negative: TVM simplifies others wrongly, to remainders of negative numbers.
    """
    low: Expr = 0
    high: Expr = window.count
    if window.low is not None:
        before = _ceil_div(window.low, window.dilation)  # taps before the first input, for the output at 0
        room = window.position(at, 0) + (before * window.dilation - window.low)
        low = _least(_most(before - _floor_div(room, window.dilation), 0), window.count)
    if window.high is not None:
        beyond = _most(window.position(at, window.count - 1) - window.high + 1, 0)
        high = _most(low, window.count - _least(_ceil_div(beyond, window.dilation), window.count))
    return low, high


def _exists(window: Window, first: int | None, column: int, tap: int) -> bool:
    """Whether a tap of a column of a tile lies inside; of interior tiles all do."""
    if first is None:
        return True
    position = window.position(first + column, tap)
    return bool((window.low is None or position >= window.low) and (window.high is None or position < window.high))


def _static(*values: Expr) -> bool:
    return all(isinstance(v, int) for v in values)


def _least(a: Expr, b: Expr) -> Expr:
    from tvm import tirx

    return min(a, b) if _static(a, b) else tirx.min(index(a), index(b))


def _most(a: Expr, b: Expr) -> Expr:
    from tvm import tirx

    return max(a, b) if _static(a, b) else tirx.max(index(a), index(b))


def _floor_div(a: Expr, b: int) -> Expr:
    from tvm import tirx

    return a // b if _static(a) else a if b == 1 else tirx.floordiv(a, index(b))


def _ceil_div(a: Expr, b: int) -> Expr:
    return _floor_div(a + (b - 1), b) if b != 1 else a


def _product(sizes: Sequence[Expr]) -> Expr:
    total: Expr = 1
    for size in sizes:
        total = size if _static(total) and total == 1 else total * size
    return total
