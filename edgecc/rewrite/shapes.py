"""Formulas of shapes: views, whose literal factors go outside, and permutations, which merge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from edgecc.rewrite import permutation
from edgecc.rewrite.expression import Call, Product, Shape, Term, scaled, shape_of
from edgecc.rewrite.reading import Arguments, Read, Reader

aten = torch.ops.aten


def reshaped(reader: Reader, x: Term, shape: Shape) -> Term:
    """A view with another shape; views of views are one, a view of a power is the power of a view."""
    inner = reader.expanded(x)
    if isinstance(inner, Product) and len(inner.factors) == 1:
        if isinstance(x, fx.Node):
            reader.look_through(x)
        ((base, exponent),) = inner.factors
        return Product(inner.literal, ((reshaped(reader, base, shape), exponent),), shape)
    found = reader.behind(x, "reshape") if isinstance(x, fx.Node) else x
    if isinstance(found, Call) and found.kind == "reshape":
        x = found.args[0]
    return x if shape_of(x) == shape else reader.call("reshape", x, shape=shape)


def permuted(x: Term, order: permutation.Order, reader: Reader | None = None) -> Term:
    """A term with its trailing axes in another order; permutations of permutations are one."""
    found = reader.behind(x, "permute") if reader is not None and isinstance(x, fx.Node) else x
    if isinstance(found, Call) and found.kind == "permute":
        x, order = found.args[0], permutation.compose(dict(found.attributes)["order"], order)
    if not order:
        return x
    return Call("permute", (x,), (("order", order),), permutation.permuted(shape_of(x), order))


def _reshape(reader: Reader, a: Arguments) -> Term:
    literal, x = reader.unscaled(a["self"])
    return scaled(literal, reshaped(reader, x, reader.shape))


def _expand(reader: Reader, a: Arguments) -> Term:
    literal, x = reader.unscaled(a["self"])
    return scaled(literal, reader.call("expand", x), reader.shape)


def _permute(order_of: Callable[[Arguments, int], permutation.Order]) -> Read:
    def formula(reader: Reader, a: Arguments) -> Term:
        literal, x = reader.unscaled(a["self"])
        return scaled(literal, permuted(x, order_of(a, len(reader.shape)), reader))

    return formula


def _swap(a: Arguments, rank: int) -> permutation.Order:
    first = next((a[name] for name in ("dim0", "axis0") if name in a), -1)
    second = next((a[name] for name in ("dim1", "axis1") if name in a), -2)
    return permutation.of_swap(first, second, rank)


def _repeat_interleave(reader: Reader, a: Arguments) -> Term | None:
    """Every entry of an axis `n` times in a row: `reshape(expand(reshape(x)))`."""
    x, repeats, dim = reader.operand(a["self"]), a["repeats"], a["dim"]
    if not isinstance(repeats, int) or dim is None:
        return None
    shape = shape_of(x)
    axis = dim % len(shape)
    head, tail = shape[: axis + 1], shape[axis + 1 :]
    single = reader.call("reshape", x, shape=(*head, 1, *tail))
    return reader.call("reshape", reader.call("expand", single, shape=(*head, repeats, *tail)))


SHAPES: dict[Any, Read] = {
    **dict.fromkeys([aten.view, aten.reshape, aten._unsafe_view, aten.unsqueeze, aten.squeeze, aten.flatten, aten.unflatten], _reshape),
    aten.permute: _permute(lambda a, rank: permutation.of_axes(a["dims"])),
    **dict.fromkeys([aten.transpose, aten.swapaxes, aten.swapdims, aten.t, aten.mT], _permute(_swap)),
    aten.expand: _expand,
    aten.repeat_interleave: _repeat_interleave,
}
