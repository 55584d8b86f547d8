"""Formulas of matrix products: one call whose literal factors go outside, its operands permuted as an `einsum` asks."""

from __future__ import annotations

from typing import Any

import torch

from edgecc.rewrite import permutation
from edgecc.rewrite.expression import Call, Term, scaled, shape_of
from edgecc.rewrite.reading import Arguments, Read, Reader, is_algebraic
from edgecc.rewrite.shapes import permuted

aten = torch.ops.aten


def _matmul(reader: Reader, a: Arguments) -> Term | None:
    left, right = a["self"], a["mat2"] if "mat2" in a else a["other"]
    if not is_algebraic(reader) or min(len(shape_of(left)), len(shape_of(right))) < 2:
        return None
    (c, x), (d, y) = reader.unscaled(left), reader.unscaled(right)
    return scaled(c * d, reader.call("matmul", x, y))


def _baddbmm(reader: Reader, a: Arguments) -> Term | None:
    if not is_algebraic(reader):
        return None
    (c, x), (d, y) = reader.unscaled(a["batch1"]), reader.unscaled(a["batch2"])
    product = scaled(a["alpha"] * c * d, reader.call("matmul", x, y))
    return reader.sum([(a["beta"], reader.operand(a["self"])), (1.0, product)]) if a["beta"] != 0 else product


def _einsum(reader: Reader, a: Arguments) -> Term | None:
    """Two operands with one contracted and one free index each: a product of permuted matrices."""
    equation, tensors = a["equation"].replace(" ", ""), a["tensors"]
    if not is_algebraic(reader) or len(tensors) != 2 or "->" not in equation or "." in equation:
        return None
    inputs, out = equation.split("->")
    left, right = inputs.split(",")
    batch = [i for i in out if i in left and i in right]
    free = [[i for i in side if i in out and i not in batch] for side in (left, right)]
    contracted = [i for i in left if i in right and i not in out]
    names_fit = all(len(set(s)) == len(s) for s in (left, right, out)) and set(left) | set(right) == {
        *batch,
        *free[0],
        *free[1],
        *contracted,
    }
    if not names_fit or [len(free[0]), len(free[1]), len(contracted)] != [1, 1, 1]:
        return None
    (c, x), (d, y) = reader.unscaled(tensors[0]), reader.unscaled(tensors[1])
    x = permuted(x, permutation.of_axes([left.index(i) for i in [*batch, *free[0], *contracted]]), reader)
    y = permuted(y, permutation.of_axes([right.index(i) for i in [*batch, *contracted, *free[1]]]), reader)
    names = [*batch, *free[0], *free[1]]
    shape = tuple(reader.shape[out.index(i)] for i in names)
    product = Call("matmul", (x, y), (), shape)
    return scaled(c * d, permuted(product, permutation.of_axes([names.index(i) for i in out])))


MATRICES: dict[Any, Read] = {
    **dict.fromkeys([aten.matmul, aten.bmm, aten.mm], _matmul),
    aten.baddbmm: _baddbmm,
    aten.einsum: _einsum,
}
