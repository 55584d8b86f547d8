"""Pieces: a length cut into vectors, and what does not fill one into shorter ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgecc.targets.tvm_cpu.schedules.code import Code, Expr, index


def unrolling(extent: Any, lanes: int, most: int) -> int:
    """Vectors in the body of a loop over `extent`: all of them where they are few, else what divides their number."""
    if not isinstance(extent, int):
        return min(most, 4)
    vectors = extent // lanes
    if vectors <= most:
        return max(vectors, 1)
    return next((u for u in range(most, most // 2, -1) if vectors % u == 0), max(most // 2, 1))


def widths(extent: Any, lanes: int, unroll: int) -> list[tuple[int, int]]:
    """The widths of the vectors that `pieces` cuts a length into, and how many at once."""
    if not isinstance(extent, int):
        return [(lanes, unroll), (1, 1)] if lanes > 1 else [(1, unroll)]
    found = [(lanes, unroll)] if extent >= lanes or lanes == 1 else []
    rest, width = extent % lanes, lanes // 2
    while width:
        if rest & width:
            found.append((width, 1))
        width //= 2
    return found or [(1, 1)]


def pieces(code: Code, start: Expr, extent: Any, lanes: int, unroll: int, step: Callable[[Expr, int, int], None]) -> None:
    """Call `step(position, count, width)` so that its vectors cover `start .. start + extent` once."""
    from tvm import tirx

    block = lanes * unroll
    if not isinstance(extent, int):
        whole = tirx.floordiv(extent, index(block))
        with code.loop("v", whole) as v:
            step(start + v * block, unroll, lanes)
        done = whole * block
        if unroll > 1 and lanes > 1:
            more = tirx.floordiv(extent - done, index(lanes))
            with code.loop("v", more) as v:
                step(start + done + v * lanes, 1, lanes)
            done = done + more * lanes
        if block > 1:
            with code.loop("v", extent - done) as v:
                step(start + done + v, 1, 1)
        return
    with code.loop("v", extent // block) as v:
        step(start + v * block, unroll, lanes)
    done = extent // block * block
    if extent - done >= lanes:
        step(start + done, (extent - done) // lanes, lanes)
        done += (extent - done) // lanes * lanes
    width = lanes // 2
    while width:
        if (extent - done) >= width:
            step(start + done, 1, width)
            done += width
        width //= 2


def ceil_divide(a: Any, b: int) -> Any:
    from tvm import tirx

    return -(-a // b) if isinstance(a, int) else tirx.floordiv(index(a) + (b - 1), index(b))


def chunks(count: int) -> list[tuple[int, int]]:
    """`count` elements as vectors of a power of two, the widest first: where each starts and how wide it is."""
    found, at = [], 0
    while at < count:
        width = 1 << (count - at).bit_length() - 1
        found.append((at, width))
        at += width
    return found
