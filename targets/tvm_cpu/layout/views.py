"""Views: reshapes of tensors whose dimensions lie in memory in another order.

Both shapes are split into their common factors, the atoms: [2, 12] and [6, 4] are [2, 3, 4], grouped in two ways. The
memory of a tensor is a sequence of atoms, and a reshape is free where each new dimension is a run of that sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgecc.targets.tvm_cpu.layout.order import Order, Size, plain, same_memory, unit

Atoms = list[list[int]]  # the atoms of each dimension, the outermost first


def view(order: Order, sizes: Sequence[Size], new_sizes: Sequence[Size]) -> Order | None:
    """The order of the reshaped tensor that is the same memory as the tensor in `order`; None where there is none."""
    atoms = _atoms(sizes, new_sizes)
    if atoms is None:
        return plain(len(new_sizes)) if same_memory(order, plain(len(sizes)), sizes) else None
    old, new = atoms
    memory = [atom for dim in order for atom in old[dim]]
    owner = {atom: dim for dim, group in enumerate(new) for atom in group}
    dims = list(dict.fromkeys(owner[atom] for atom in memory))
    if [atom for dim in dims for atom in new[dim]] != memory:
        return None
    for dim, group in enumerate(new):
        if not group:
            dims.insert(dims.index(dim - 1) + 1 if dim else 0, dim)
    return tuple(dims)


def _atoms(sizes: Sequence[Size], new_sizes: Sequence[Size]) -> tuple[Atoms, Atoms] | None:
    """The atoms of both shapes, numbered from the innermost on; None where sizes have no common factor."""
    old: Atoms = [[] for _ in sizes]
    new: Atoms = [[] for _ in new_sizes]
    left = [(d, s) for d, s in enumerate(sizes) if not unit(s)]
    right = [(d, s) for d, s in enumerate(new_sizes) if not unit(s)]
    number = 0
    while left and right:
        (i, a), (j, b) = left.pop(), right.pop()
        split = _split(a, b)
        if split is None:
            return None
        a, b = split
        old[i].insert(0, number)
        new[j].insert(0, number)
        number += 1
        left += [] if unit(a) else [(i, a)]
        right += [] if unit(b) else [(j, b)]
    return None if left or right else (old, new)


def _split(a: Size, b: Size) -> tuple[Size, Size] | None:
    """What is left of two sizes without their common innermost factor, which is one of them; None where it is neither."""
    rest = _quotient(a, b)
    if rest is not None:
        return rest, 1
    rest = _quotient(b, a)
    return None if rest is None else (1, rest)


def _quotient(size: Size, factor: Size) -> Size | None:
    from tvm import sym, tirx

    if isinstance(size, int) and isinstance(factor, int):
        return None if factor == 0 or size % factor else size // factor
    analyzer = sym.Analyzer()
    size, factor = _expression(size), _expression(factor)
    if not analyzer.can_prove_equal(tirx.floormod(size, factor), tirx.const(0, "int64")):
        return None
    rest = analyzer.simplify(tirx.floordiv(size, factor))
    return int(rest) if isinstance(rest, tirx.IntImm) else rest


def _expression(size: Size) -> Any:
    from tvm import tirx

    return tirx.const(size, "int64") if isinstance(size, int) else size
