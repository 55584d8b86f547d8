"""Permutations of trailing axes, so that a transpose reads the same for every rank.

An order is a tuple of negative axes over the trailing block that it moves: `(-1, -2)` swaps the last two axes of a
tensor of any rank, `()` moves nothing. Entry `i` names the axis that comes to place `i` of the block.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgecc.rewrite.expression import Shape

Order = tuple[int, ...]


def of_axes(axes: Sequence[int]) -> Order:
    """The order of `permute(axes)`."""
    rank = len(axes)
    return trimmed(tuple(a % rank - rank for a in axes))


def of_swap(first: int, second: int, rank: int) -> Order:
    """The order of `transpose(first, second)`."""
    axes = list(range(rank))
    axes[first], axes[second] = axes[second], axes[first]
    return of_axes(axes)


def trimmed(order: Order) -> Order:
    """Leave out leading axes that stay in place."""
    start = next((i for i, axis in enumerate(order) if axis != i - len(order)), len(order))
    return order[start:]


def compose(first: Order, then: Order) -> Order:
    """The order of permuting by `first` and the result by `then`."""
    rank = max(len(first), len(then))
    wide = _widened(first, rank)
    return trimmed(tuple(wide[axis] for axis in _widened(then, rank)))


def inverse(order: Order) -> Order:
    places = {axis: i - len(order) for i, axis in enumerate(order)}
    return trimmed(tuple(places[i - len(order)] for i in range(len(order))))


def permuted(shape: Shape, order: Order) -> Shape:
    return tuple(shape[axis] for axis in _widened(order, len(shape)))


def axes_of(order: Order, rank: int) -> list[int]:
    """The argument of `permute` for a tensor of this rank."""
    return [axis + rank for axis in _widened(order, rank)]


def _widened(order: Order, rank: int) -> Order:
    return (*range(-rank, -len(order)), *order)
