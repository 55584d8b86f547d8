"""Tiles of depthwise convolutions: how many rows and columns of the output are summed in registers at once.

A tile of `rows x columns` loads each input element under its windows once, however many of its sums need it. The model
counts the instructions of a whole image, borders included, for every tile whose sums and weights fit the registers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from edgecc.targets.tvm_cpu.schedules.core import Core
from edgecc.targets.tvm_cpu.schedules.depthwise_match import Depthwise, Window

_TYPICAL = 32  # stands for a size that is not known
_LOOP = 4  # instructions of a loop
_SUM = 3  # instructions of a sum that are no taps: start, bias or clamp, store
_REACH = 64 << 10  # bytes that a load's offset spans on AArch64; beyond it, addresses cost instructions
_WIDEST = 12
FEW = 9  # taps along a row whose weights can stay in registers together
LONG = 32  # taps along a row above which they are a loop


@dataclass(frozen=True)
class Tile:
    """`rows x columns` sums of `lanes` channels.

    `unrolled`: the weights stay in registers and interior rows are straight-line code over every tap; else the taps
    along all axes but the columns are loops.
    """

    rows: int
    columns: int
    lanes: int
    unrolled: bool


def choose(core: Core, conv: Depthwise) -> Tile:
    """The tile with the fewest instructions an image. Sums of integers are wider than their factors on AArch64 (SMLAL, SMLAL2)."""
    width = int(conv.factors.lstrip("bfloatuin")) // 8 if core.arch == "aarch64" or "float" in conv.dtype else 4
    lanes = 1 << (min(core.lanes * 4 // width, int(conv.channels.extent)).bit_length() - 1)
    return min(_tiles(core, conv, lanes), key=lambda t: (_cost(t, conv), t.rows * t.columns))


def straight(conv: Depthwise) -> bool:
    """Whether the taps lie along the last two axes only, so that a tile can be one piece of code."""
    return all(w.count == 1 and not w.bounded for w in conv.windows[:-2])


def offsets(window: Window, count: int) -> list[int]:
    """Where, from the first position of `count` neighbours, their windows read."""
    return sorted({j * window.stride + k * window.dilation for j in range(count) for k in range(window.count)})


def _tiles(core: Core, conv: Depthwise, lanes: int) -> Iterator[Tile]:
    across = conv.windows[-1]
    down = conv.windows[-2] if len(conv.windows) > 1 else None
    taps_down = down.count if down else 1
    most = min(across.axis.extent, _WIDEST) if isinstance(across.axis.extent, int) else 8
    each = max(1, lanes // core.lanes) if "int" in conv.dtype else 1  # registers of a sum
    spare = 9 if across.stride == 1 else 12  # registers for inputs on their way: LLVM loads early
    for columns in range(1, most + 1):
        if columns == 1 or columns * each + min(across.count, FEW) + 5 <= core.registers:
            yield Tile(1, columns, lanes, False)
        for rows in range(1, 5):
            overlap = down is not None and down.count > 1 and not (isinstance(down.axis.extent, int) and rows > down.axis.extent)
            if (
                straight(conv)
                and columns <= 8
                and (rows == 1 or overlap)
                and rows * columns * each + taps_down * across.count + spare <= core.registers
            ):
                yield Tile(rows, columns, lanes, True)


def _cost(tile: Tile, conv: Depthwise) -> float:
    across = conv.windows[-1]
    down = conv.windows[-2] if len(conv.windows) > 1 else None
    taps_down = math.prod(w.count for w in conv.windows[:-1])
    width = across.axis.extent if isinstance(across.axis.extent, int) else _TYPICAL
    height = 1 if down is None else down.axis.extent if isinstance(down.axis.extent, int) else _TYPICAL
    bordered = down is not None and (down.low is not None or down.high is not None) and down.count > 1
    edge = min(height, 2 * math.ceil((taps_down - 1) / 2)) if bordered else 0
    looped = sum(n * _looped(c, conv, taps_down) for c, n in _split(width, tile.columns))
    if not tile.unrolled:
        return height * looped
    inner, rest = divmod(height - edge, tile.rows)
    unrolled = sum(n * _straight(tile, c, conv) for c, n in _split(width, tile.columns))
    return inner * unrolled + (edge + rest) * looped


def _straight(tile: Tile, columns: int, conv: Depthwise) -> float:
    across, down = conv.windows[-1], conv.windows[-2] if len(conv.windows) > 1 else None
    deep = len(offsets(down, tile.rows)) if down else 1
    taps = across.count * (down.count if down else 1)
    width = across.axis.extent if isinstance(across.axis.extent, int) else _TYPICAL
    span = deep * width * across.stride * int(conv.channels.extent) * 4
    return deep * len(offsets(across, columns)) * (1 if span <= _REACH else 1.2) + tile.rows * columns * (taps + _SUM) + _LOOP


def _looped(columns: int, conv: Depthwise, taps_down: int) -> float:
    across = conv.windows[-1]
    if across.count > LONG:
        return taps_down * across.count * (2 * columns + 1 + _LOOP) + columns * _SUM + _LOOP
    loads = len(offsets(across, columns)) + across.count
    return taps_down * (loads + columns * across.count + _LOOP) + columns * _SUM + _LOOP


def _split(total: int, size: int) -> list[tuple[int, int]]:
    whole, rest = divmod(total, size)
    return [(size, whole), *([(rest, 1)] if rest else [])]
