"""Products: the code of a contraction, tile by tile.

One tile is a block of sums in registers. Code for a full tile is written once, and again for each kind of tile at the
edges: fewer rows, fewer columns, or sizes that only the run knows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from edgecc.targets.tvm_cpu.schedules.access import Linear
from edgecc.targets.tvm_cpu.schedules.code import Buffer, Code, Expr, index, splat, vector
from edgecc.targets.tvm_cpu.schedules.contraction import Contraction, Group
from edgecc.targets.tvm_cpu.schedules.epilogue import Epilogue, seed_value
from edgecc.targets.tvm_cpu.schedules.pieces import ceil_divide, chunks
from edgecc.targets.tvm_cpu.schedules.stage import replace
from edgecc.targets.tvm_cpu.schedules.tiles import Tile

_TASKS = 32  # parts to divide among threads: enough that some of them are equal for any small number of threads


@dataclass(frozen=True)
class Left:
    """The left operand as the tiles read it: where it lies as it is, or packed in panels of `panel` rows, if not 0."""

    buffer: Buffer
    place: Linear
    panel: int = 0


@dataclass(frozen=True)
class Place:
    """Where a tile of `height x vectors` registers is. `rows`: how many of its rows are in the result, `start` the first.

    `where`: positions along the axes outside of the tile; `right`: where the packed panel begins, `panel`: its number.
    """

    where: Mapping[Any, Expr]
    batch: Expr
    block: Expr
    start: Expr
    rows: Any
    height: int
    vectors: int
    right: Expr
    panel: Expr


#: Writes `sums += left * right` over the whole depth; the buffers are the left and the right operand as rows of memory.
Multiply = Callable[[Code, "Product", tuple[Buffer, Buffer], Place, Buffer], None]


@dataclass(frozen=True)
class Product:
    """`outer`: groups of rows that are walked one by one; `inner`: the group that tiles cut. `right` is packed in panels.

    `panels_first`: walk all rows for a panel of columns; else all panels for `together` tiles of rows. `grain`: each run of
    the depth is a multiple of it in the packed operand. `density`: steps of the depth in an element of that.
    """

    contraction: Contraction
    epilogue: Epilogue
    tile: Tile
    left: Left
    right: Buffer
    outer: tuple[Group, ...]
    inner: Group
    depth: tuple[Group, ...]
    panels_first: bool
    multiply: Multiply
    together: int = 1
    grain: int = 1
    density: int = 1

    @property
    def columns(self) -> Any:
        return self.contraction.column.extent

    @property
    def run(self) -> Any:
        """Steps of the innermost group of the depth in the packed operand."""
        extent = self.depth[-1].extent
        return extent if self.grain == 1 else -(-extent // self.grain) * self.grain

    @property
    def length(self) -> Any:
        """Elements of the whole depth in the packed operand, for each column."""
        total: Any = self.run
        for group in self.depth[:-1]:
            total = total * group.extent
        return total if self.density == 1 else total // self.density

    @property
    def panels(self) -> Any:
        return ceil_divide(self.columns, self.tile.columns)

    def code(self) -> Code:
        code = Code()
        blocks = ceil_divide(self.inner.extent, self.tile.rows)
        batch = Group(self.contraction.batch)
        walked = Group(tuple(a for g in self.outer for a in g.axes))
        shares = self._shares(walked.extent, blocks) if self.panels_first else 1
        around = batch.extent * (self.panels * shares if self.panels_first else walked.extent * (blocks // self.together))
        with code.loop("p", around, "parallel") as p:
            left, right = _flat(code, self.left.buffer), _flat(code, self.right)
            if self.panels_first:
                share, rest = _divided(p, shares)
                panel, rest = _divided(rest, self.panels)
                where = batch.split(rest)
                rows, tiles = (walked.extent, blocks // shares) if walked.extent == 1 else (walked.extent // shares, blocks)
                with code.loop("rows", rows) as r, code.loop("block", tiles) as block:
                    if walked.extent == 1:
                        block = share * tiles + block
                    else:
                        r = share * rows + r
                    self._columns(code, (left, right), {**where, **walked.split(r)}, rest, panel, block)
            else:
                several, rest = _divided(p, blocks // self.together)
                row, rest = _divided(rest, walked.extent)
                where = {**batch.split(rest), **walked.split(row)}
                with code.loop("panel", self.panels) as panel, code.loop("block", self.together) as block:
                    self._columns(code, (left, right), where, rest, panel, several * self.together + block)
        return code

    def _shares(self, rows: Any, blocks: Any) -> int:
        """Into how many shares the rows of a panel are divided, so that threads have equal parts of few panels."""
        units, tasks = blocks if rows == 1 else rows, Group(self.contraction.batch).extent * self.panels
        if not isinstance(units, int) or not isinstance(tasks, int):
            return 1
        return next((n for n in range(1, units) if units % n == 0 and tasks * n >= _TASKS), units)

    # -- the kinds of tiles

    def _columns(
        self, code: Code, buffers: tuple[Buffer, Buffer], where: Mapping[Any, Expr], batch: Expr, panel: Expr, block: Expr
    ) -> None:
        """The tile at a panel and a block: full columns, or the last ones."""
        n, width = self.columns, self.tile.columns
        if not isinstance(n, int):
            left = code.bind("left", index(n) - panel * width)
            self._branch(code, left >= width, lambda full: self._rows(code, buffers, where, batch, panel, block, width if full else left))
        elif n % width == 0:
            self._rows(code, buffers, where, batch, panel, block, width)
        elif n < width:
            self._rows(code, buffers, where, batch, index(0), block, n)
        else:
            last = n // width
            self._branch(
                code,
                panel < last,
                lambda full: self._rows(code, buffers, where, batch, panel if full else index(last), block, width if full else n % width),
            )

    def _rows(
        self, code: Code, buffers: tuple[Buffer, Buffer], where: Mapping[Any, Expr], batch: Expr, panel: Expr, block: Expr, columns: Any
    ) -> None:
        """The tile with full rows, or the last ones."""
        m, height = self.inner.extent, self.tile.rows

        def write(block: Expr, rows: Any) -> None:
            self._tile(code, buffers, where, batch, panel, block, rows, columns)

        if not isinstance(m, int):
            left = code.bind("below", index(m) - block * height)
            self._branch(code, left >= height, lambda full: write(block, height if full else left))
        elif m % height == 0:
            write(block, height)
        elif m < height:
            write(index(0), m)
        else:
            last = m // height
            self._branch(code, block < last, lambda full: write(block if full else index(last), height if full else m % height))

    @staticmethod
    def _branch(code: Code, condition: Expr, write: Any) -> None:
        from tvm import tirx

        with code.when(condition):
            write(True)
        with code.when(tirx.Not(condition)):
            write(False)

    # -- one tile

    def _tile(
        self,
        code: Code,
        buffers: tuple[Buffer, Buffer],
        where: Mapping[Any, Expr],
        batch: Expr,
        panel: Expr,
        block: Expr,
        rows: Any,
        columns: Any,
    ) -> None:
        """`rows`, `columns`: how many of the tile are in the result: numbers, or what only the run knows."""
        tile, lanes = self.tile, self.tile.lanes
        height = rows if isinstance(rows, int) and not self.left.panel else tile.rows
        vectors = math.ceil(columns / lanes) if isinstance(columns, int) else tile.vectors
        dtype = str(self.contraction.stage.buffer.ty.dtype)
        start = code.bind("start", block * tile.rows)
        first = panel * tile.columns
        sums = code.local("sums", height * vectors * lanes, dtype)
        for j in range(vectors):
            whole = isinstance(columns, int) and (j + 1) * lanes <= columns
            self._seed(code, sums, first, j, whole, columns, height, vectors, dtype)
        stride = self._right_stride()
        right = code.bind("right", batch * stride + panel * (index(self.length) * tile.columns))
        self.multiply(code, self, buffers, Place(where, batch, block, start, rows, height, vectors, right, panel), sums)
        limit_rows = rows if not isinstance(rows, int) else (rows if rows < height else None)
        self._write(code, sums, where, start, first, height, vectors, limit_rows, columns, dtype)

    def _right_stride(self) -> Any:
        """Elements of the packed right operand for one entry of the batch."""
        n, tile = self.columns, self.tile
        if not isinstance(n, int):
            return index(self.length) * self.panels * tile.columns
        whole, rest = divmod(n, tile.columns)
        return index(self.length) * (whole * tile.columns + math.ceil(rest / tile.lanes) * tile.lanes)

    def _seed(
        self, code: Code, sums: Buffer, first: Expr, j: int, whole: bool, columns: Any, height: int, vectors: int, dtype: str
    ) -> None:
        from tvm import tirx

        lanes = self.tile.lanes
        zero = splat(tirx.const(0, dtype), lanes)
        seeded = self.epilogue.seed is not None
        value = zero
        if seeded and whole:
            held = code.local("seed", lanes, dtype)
            with code.loop("l", lanes, "vector") as lane:
                code.store(held, [lane], seed_value(self.epilogue, first + j * lanes + lane))
            value = held[(vector(0, lanes),)]
        for i in range(height):
            code.store(sums, [vector((i * vectors + j) * lanes, lanes)], value)
        if seeded and not whole:
            for i in range(height):
                offset = (i * vectors + j) * lanes
                if isinstance(columns, int):
                    for at, width in chunks(columns - j * lanes):
                        with code.loop("l", width, "vector") as lane:
                            code.store(sums, [offset + at + lane], seed_value(self.epilogue, first + j * lanes + at + lane))
                else:
                    for at in range(lanes):
                        with code.when(columns > j * lanes + at):
                            code.store(sums, [offset + at], seed_value(self.epilogue, first + j * lanes + at))

    def _write(
        self,
        code: Code,
        sums: Buffer,
        where: Mapping[Any, Expr],
        start: Expr,
        first: Expr,
        height: int,
        vectors: int,
        rows: Any,
        columns: Any,
        dtype: str,
    ) -> None:
        """The epilogue of a tile. `rows`: None where all are in the result."""
        from tvm import tirx

        lanes = self.tile.lanes
        loops = self.epilogue.is_costly or not isinstance(columns, int) or (rows is not None and not isinstance(rows, int))
        if not loops:
            for i in range(height if rows is None else rows):
                self._row(code, sums, where, start + i, first, i * vectors * lanes, columns)
            return
        copy = code.local("results", height * vectors * lanes, dtype)
        for q in range(height * vectors):
            code.store(copy, [vector(q * lanes, lanes)], sums[vector(q * lanes, lanes)])
        below = index(self.inner.extent) - start  # a number that only the run knows: LLVM would write the function out for each row
        count = code.bind("rows", tirx.min(below, index(height))) if rows is None or isinstance(rows, int) else rows
        with code.loop("i", count) as i:
            self._row(code, copy, where, start + i, first, i * (vectors * lanes), columns)

    def _row(
        self,
        code: Code,
        sums: Buffer,
        where: Mapping[Any, Expr],
        row: Expr,
        first: Expr,
        offset: Expr,
        columns: Any,
    ) -> None:
        lanes = self.tile.stored or self.tile.lanes
        whole = columns // lanes if isinstance(columns, int) else 0
        position = {**where, **self.inner.split(row)}

        def put(column: Expr, at: Expr) -> None:
            placed = {**position, self.contraction.column.var: column}
            full = {
                a.var: replace(self.contraction.where[s.var], placed)
                for a, s in zip(self.epilogue.sums.axes, self.contraction.stage.axes, strict=True)
            }
            for buffer, indices, value in self.epilogue.values(full, sums[index(at)]):
                code.store(buffer, indices, value)

        for j in range(whole):
            with code.loop("l", lanes, "vector") as lane:
                put(first + j * lanes + lane, offset + j * lanes + lane)
        if isinstance(columns, int):
            for at, width in chunks(columns - whole * lanes):
                with code.loop("l", width, "vector") as lane:
                    put(first + whole * lanes + at + lane, offset + whole * lanes + at + lane)
        else:
            with code.loop("l", columns) as lane:
                put(first + lane, offset + lane)


def _divided(position: Expr, extent: Any) -> tuple[Expr, Expr]:
    """A position inside an extent, and what is left over."""
    from tvm import tirx

    if isinstance(extent, int) and extent == 1:
        return index(0), index(position)
    return tirx.floormod(index(position), index(extent)), tirx.floordiv(index(position), index(extent))


def _flat(code: Code, buffer: Buffer) -> Buffer:
    from edgecc.targets.tvm_cpu.schedules.access import size_of

    return code.flat(buffer, size_of(buffer))
