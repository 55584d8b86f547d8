"""Orders: in which order the dimensions of a tensor lie in memory, the outermost first.

`(0, 2, 3, 1)` keeps a tensor [n, c, h, w] in memory as [n, h, w, c]. Everything else in the compiler speaks of the
dimensions as the program numbers them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

Order = tuple[int, ...]
Size = Any  # an int where static, else an expression
T = TypeVar("T")


def plain(rank: int) -> Order:
    """The order of the program, row-major."""
    return tuple(range(rank))


def permuted(values: Sequence[T], order: Order) -> list[T]:
    """What belongs to each dimension, in the order of memory."""
    return [values[d] for d in order]


def same_memory(first: Order, second: Order, sizes: Sequence[Size]) -> bool:
    """Whether two orders put every element at the same place: they differ in dimensions of size one at most."""
    return [d for d in first if not unit(sizes[d])] == [d for d in second if not unit(sizes[d])]


def innermost(order: Order, sizes: Sequence[Size]) -> int | None:
    """The last dimension in memory of more than one element."""
    return next((d for d in reversed(order) if not unit(sizes[d])), None)


def same_sizes(first: Sequence[Size], second: Sequence[Size]) -> bool:
    """Whether two shapes are equal for every value of their symbols."""
    from tvm import sym

    return len(first) == len(second) and all(
        a == b if isinstance(a, int) and isinstance(b, int) else sym.Analyzer().can_prove_equal(a, b)
        for a, b in zip(first, second, strict=True)
    )


def unit(size: Size) -> bool:
    return isinstance(size, int) and size == 1


def through(order: Order, axes: Sequence[int]) -> Order:
    """The order of a transposed tensor that is the same memory. Dimension k of it is dimension `axes[k]` of the tensor."""
    return tuple(axes.index(d) for d in order)


def before(order: Order, axes: Sequence[int]) -> Order:
    """The order that a tensor must have for its transposed form to have `order` without a copy."""
    return tuple(axes[d] for d in order)


def follow(order: Order, links: Mapping[int, int], rank: int) -> Order:
    """The order of a tensor of `rank` dimensions in which those that are linked to another tensor's lie as they do there.

    `links`: dimension of the other tensor, whose order is given -> dimension of this one. The rest stay where
    broadcasting aligns them with the other tensor, from the last dimension on, or else behind the one before them.
    """
    offset = rank - len(order)
    if all(mine == other + offset for other, mine in links.items()):
        return (*range(max(offset, 0)), *(d + offset for d in order if d + offset >= 0))
    placed = [links[d] for d in order if d in links]
    for dim in range(rank):
        if dim not in placed:
            placed.insert(placed.index(dim - 1) + 1 if dim else 0, dim)
    return tuple(placed)
