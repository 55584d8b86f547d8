"""Ranges of depthwise convolutions: which outputs have every tap, and which taps an output has."""

from __future__ import annotations

from collections.abc import Sequence

from edgecc.targets.tvm_cpu.schedules.code import Expr, index
from edgecc.targets.tvm_cpu.schedules.depthwise_match import Window


def interior(window: Window) -> tuple[Expr, Expr]:
    """The range of outputs for which every tap exists."""
    extent = window.axis.extent
    first = 0 if window.low is None else ceil_div(most(window.low - window.offset, 0), window.stride)
    first = least(first, extent)
    if window.high is None:
        return first, extent
    room = most(window.high - window.offset - (window.count - 1) * window.dilation + window.stride - 1, 0)
    return first, most(first, least(floor_div(room, window.stride), extent))


def existing(window: Window, at: Expr) -> tuple[Expr, Expr]:
    """The range of taps that exist for one output.

    Numerators grow with the output and are not negative: TVM simplifies others wrongly, to remainders of negative numbers.
    """
    low: Expr = 0
    high: Expr = window.count
    if window.low is not None:
        before = ceil_div(window.low, window.dilation)  # taps before the first input, for the output at 0
        room = window.position(at, 0) + (before * window.dilation - window.low)
        low = least(most(before - floor_div(room, window.dilation), 0), window.count)
    if window.high is not None:
        beyond = most(window.position(at, window.count - 1) - window.high + 1, 0)
        high = most(low, window.count - least(ceil_div(beyond, window.dilation), window.count))
    return low, high


def exists(window: Window, first: int | None, column: int, tap: int) -> bool:
    """Whether a tap of a column of a tile lies inside; of interior tiles all do."""
    if first is None:
        return True
    position = window.position(first + column, tap)
    return bool((window.low is None or position >= window.low) and (window.high is None or position < window.high))


def _static(*values: Expr) -> bool:
    return all(isinstance(v, int) for v in values)


def least(a: Expr, b: Expr) -> Expr:
    from tvm import tirx

    return min(a, b) if _static(a, b) else tirx.min(index(a), index(b))


def most(a: Expr, b: Expr) -> Expr:
    from tvm import tirx

    return max(a, b) if _static(a, b) else tirx.max(index(a), index(b))


def floor_div(a: Expr, b: int) -> Expr:
    from tvm import tirx

    return a // b if _static(a) else a if b == 1 else tirx.floordiv(a, index(b))


def ceil_div(a: Expr, b: int) -> Expr:
    return floor_div(a + (b - 1), b) if b != 1 else a


def product(sizes: Sequence[Expr]) -> Expr:
    total: Expr = 1
    for size in sizes:
        total = size if _static(total) and total == 1 else total * size
    return total
