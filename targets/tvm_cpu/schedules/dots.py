"""Dots: instructions that multiply 8-bit integers and add neighbouring products, and what they want of their operands.

A register of the right operand holds `group` steps of the depth for each of its columns: packed `[depth / group, columns,
group]`. Sums are int32 and exact. Sources: Arm Architecture Reference Manual (SMULL, SADALP, SDOT, SMMLA); Intel 64 and
IA-32 Architectures Software Developer's Manual (VPMADDWD, VPDPBUSD).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from edgecc.targets.tvm_cpu.schedules.core import Core
from edgecc.targets.tvm_cpu.schedules.tiles import Tile

_ISSUE = 3.0  # instructions that the front end passes on in a cycle


@dataclass(frozen=True)
class Dot:
    """`lanes`: columns of a register of sums. `chunk`: steps of the depth in the inner loop; every run of the depth is a
    multiple of `grain` and a packed run of `group`. `left`, `right`: dtypes of the operands, `any` integers for the last resort.

    `each`: instructions for one product of registers; `rows`, `columns`: of what a tile is a multiple.
    """

    name: str
    lanes: int
    group: int
    grain: int
    chunk: int
    left: str
    right: str = "int8"
    each: int = 1
    rows: int = 1


def dot_of(core: Core, left: str, right: str, columns: object, depth: object, constant: bool) -> Dot:
    """The instructions for operands of these dtypes. `constant`: the right one is, and never -128."""
    lanes = core.lanes
    while isinstance(columns, int) and lanes > 4 and columns <= lanes // 2:
        lanes //= 2
    if right == "int8" and isinstance(depth, int):
        if core.dot == "vnni" and left == "uint8":
            return Dot("vnni", core.lanes, 4, 4, 16, "uint8")
        if core.arch == "x86_64":
            return Dot("madd", lanes, 2, 2, 8, "int16")
        if core.dot in _ARM and left == "int8":
            return _ARM["smull" if core.dot == "smlal" and not constant else core.dot]
    return Dot("any", lanes, 1, 1, 4, "any", "any", 3)


_ARM = {
    "smlal": Dot("smlal", 4, 16, 8, 32, "int8", each=3),
    "smull": Dot("smull", 4, 16, 8, 32, "int8", each=4),
    "sdot": Dot("sdot", 4, 4, 4, 16, "int8"),
    "smmla": Dot("smmla", 4, 8, 8, 16, "int8", rows=2),
}


def choose(core: Core, dot: Dot, rows: object, columns: object, depth: object) -> Tile:
    """The cheapest tile of sums for a product of these sizes."""
    m, n, k = (x if isinstance(x, int) else 64 for x in (rows, columns, depth))
    return min(_tiles(core, dot, m, n), key=lambda t: (_cost(core, dot, t, m, n, k), -t.rows, t.vectors))


def _tiles(core: Core, dot: Dot, rows: int, columns: int) -> Iterator[Tile]:
    most = max(1, math.ceil(columns / dot.lanes))
    for r in range(1, 13):
        if r > 1 and (r > rows or r % dot.rows):
            continue
        for v in range(1, min(most, 6) + 1):
            if _registers(dot, r, v) <= core.registers:
                yield Tile(r, v, dot.lanes, dot.chunk, dot.name, _stored(dot, v))


def _stored(dot: Dot, vectors: int) -> int:
    """Results in a register of bytes where there are as many."""
    columns = vectors * dot.lanes
    return next(n for n in (16, 8, 4, 1) if columns % n == 0)


def _registers(dot: Dot, r: int, v: int) -> int:
    if dot.name in ("smlal", "smull"):
        return r * v * 4 + r + 9  # LLVM moves registers about where fewer are free
    if dot.name == "smmla":
        return math.ceil(r / 2) * (v * 2 + 2) + 4
    return r * v + v + (r if dot.name == "sdot" else 2)


def _cost(core: Core, dot: Dot, tile: Tile, rows: int, columns: int, depth: int) -> float:
    total = 0.0
    for r, times_r in _split(rows, tile.rows):
        for v, times_v in _split(math.ceil(columns / dot.lanes), tile.vectors):
            total += times_r * times_v * (math.ceil(depth / dot.chunk) * _step(core, dot, r, v) + 3.0 * r * v + 10)
    return total


def _step(core: Core, dot: Dot, r: int, v: int) -> float:
    """Cycles for one chunk of the depth."""
    if dot.name in ("smlal", "smull"):
        products, loads, moves = r * v * 8, 2 * r + v * 8, 0
    elif dot.name == "smmla":
        pairs = math.ceil(r / 2)
        products, loads, moves = pairs * v * 2 * 2, 2 * pairs + v * 4, 2 * pairs
    else:
        steps = dot.chunk // dot.group
        products, loads = r * v * steps, (r if dot.name == "sdot" else r * steps) + v * steps
        moves = 0 if dot.name == "sdot" else v * steps if dot.name in ("madd", "any") else 0
    arithmetic = products * dot.each
    near = math.ceil(loads / 2) if core.arch == "aarch64" else loads
    instructions = arithmetic + near + moves + 3
    chain = core.fma_latency * (dot.chunk // dot.group)  # a sum waits for its own last product
    return max(arithmetic / core.fma_ports, loads / core.load_ports / 2, instructions / _ISSUE, chain) + 0.3 * instructions


def _split(total: int, size: int) -> list[tuple[int, int]]:
    whole, rest = divmod(total, size)
    return [(size, whole), *([(rest, 1)] if rest else [])]
