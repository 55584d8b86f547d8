"""Tiles: how many rows and columns of a matrix product are summed in registers at once, and in what order tiles are visited.

A tile of `rows x vectors` registers needs, for each step of the depth, `vectors` loads of the right operand and the
rows' elements of the left. The model counts the cycles of the multiply-add units, the load units and the front end for
one step, and takes the largest; a tile that does not keep the units busy pays their latency. Goto and van de Geijn,
"Anatomy of High-Performance Matrix Multiplication", ACM TOMS 34(3), 2008, sections 4 and 5.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from edgecc.targets.tvm_cpu.schedules.core import Core

_ISSUE = 3.0  # instructions that the front end of these cores passes on in a cycle
_LOOP = 3.0  # instructions of a loop around the unrolled steps
_TYPICAL = 64  # stands for a size that is not known
_EPILOGUE = 4.0  # cycles for one register of results: load it, add, clamp, store


@dataclass(frozen=True)
class Tile:
    """`rows` of the left operand times `vectors` registers of columns. `steps`: how far the depth is unrolled.

    `left`: `lane` (vectors along the depth, multiplied by lane), `panel` (packed, vectors along the rows) or
    `broadcast` (one element in all lanes). `stored`: how many results are written at once, 0 for `lanes`.
    """

    rows: int
    vectors: int
    lanes: int
    steps: int
    left: str
    stored: int = 0

    @property
    def columns(self) -> int:
        return self.vectors * self.lanes


def choose(core: Core, lanes: int, rows: Any, columns: Any, depth: Any, *, left: str) -> Tile:
    """The cheapest tile for a product of these sizes."""
    m, n, k = (x if isinstance(x, int) else _TYPICAL for x in (rows, columns, depth))
    return min(_tiles(core, lanes, m, n, k, left), key=lambda t: (cost(core, t, m, n, k), -t.rows, t.vectors))


def cost(core: Core, tile: Tile, rows: int, columns: int, depth: int) -> float:
    """Cycles for the whole product, tiles at the edges included."""
    total = 0.0
    vectors = math.ceil(columns / tile.lanes)
    for r, count_r in _split(rows, tile.rows):
        r = tile.rows if tile.left == "panel" else r  # a panel is summed whole
        for v, count_v in _split(vectors, tile.vectors):
            total += count_r * count_v * (depth * step(core, r, v, tile) + _EPILOGUE * r * v + 10)
    return total


def step(core: Core, rows: int, vectors: int, tile: Tile) -> float:
    """Cycles for one step of the depth."""
    products = rows * vectors
    right = math.ceil(vectors / 2) if core.arch == "aarch64" else vectors  # a pair of registers is one instruction
    if tile.left == "lane":
        loads, left = vectors + rows / 4, rows / 4
    elif tile.left == "panel":
        loads, left = vectors + rows / tile.lanes, math.ceil(rows / tile.lanes) / 2
    else:
        loads, left = vectors + rows, rows
    instructions = products + right + left + _LOOP / tile.steps
    busy = max(products / core.fma_ports, loads / core.load_ports / 2, instructions / _ISSUE, core.fma_latency * min(1.0, products))
    return busy + 0.3 * instructions


def _tiles(core: Core, lanes: int, rows: int, columns: int, depth: int, left: str) -> Iterator[Tile]:
    most = max(1, math.ceil(columns / lanes))
    steps = 4 if left == "broadcast" or depth < 64 else 8
    for r in range(1, 17):
        if r > max(rows, 1) or (left == "panel" and r % lanes):
            continue
        for v in range(1, min(most, 8) + 1):
            spare = {"lane": r, "panel": r // lanes, "broadcast": 1}[left]
            if r * v + v + spare <= core.registers - (1 if left == "panel" else 0):
                yield Tile(r, v, lanes, steps, left)


def _split(total: int, size: int) -> list[tuple[int, int]]:
    """Sizes of the tiles along one side, and how many there are of each."""
    whole, rest = divmod(total, size)
    return [(size, whole), *([(rest, 1)] if rest else [])]


def columns_first(core: Core, tile: Tile, rows: Any, columns: Any, depth: Any, *, bytes_each: int = 4) -> bool:
    """Whether to keep a panel of columns in the cache and walk all rows, rather than keep rows and walk all columns.

    Compares the bytes that come from beyond the first cache; those from beyond the second count four times.
    """
    m, n, k = (x if isinstance(x, int) else _TYPICAL for x in (rows, columns, depth))
    left, right = m * k * bytes_each, n * k * bytes_each
    panels, blocks = math.ceil(n / tile.columns), math.ceil(m / tile.rows)
    by_columns = right * _far(core, right) + left * _far(core, left) * (1 if left <= core.l1 / 2 else panels)
    by_rows = left * _far(core, left) + right * _far(core, right) * (1 if right <= core.l1 / 2 else blocks)
    return by_columns <= by_rows


def _far(core: Core, size: int) -> int:
    return 1 if size <= core.l2 / 2 else 4


def together(core: Core, tile: Tile, rows: Any, depth: Any, *, bytes_each: int = 4) -> int:
    """How many tiles of rows to multiply with a panel before the next panel: as many as half of the first cache holds."""
    if not isinstance(rows, int) or not isinstance(depth, int):
        return 1
    blocks = math.ceil(rows / tile.rows)
    most = max(1, core.l1 // 2 // (tile.rows * depth * bytes_each))
    return max(d for d in range(1, min(most, blocks) + 1) if blocks % d == 0)
