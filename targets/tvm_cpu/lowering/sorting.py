"""Sorting along an axis by a stable merge sort of positions, written as one kernel: TVM's own needs a host library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from edgecc.targeting.lowering import arguments_of, fake
from edgecc.targets.tvm_cpu.lowering.builder import Builder, Expr, axis_of, dtype, rank, shape
from edgecc.targets.tvm_cpu.lowering.handler import Handlers, handlers
from edgecc.targets.tvm_cpu.lowering.layout import product, transpose
from edgecc.targets.tvm_cpu.lowering.slicing import slice_axis

aten = torch.ops.aten


def sort(b: Builder, x: Expr, dim: int, descending: bool) -> tuple[Expr, Expr]:
    """x sorted along `dim`, and the int64 positions that the elements came from. Equal ones keep their order; NaN is the largest."""
    if rank(x) == 0:
        return x, b.constant(0, "int64")
    turned = transpose(b, x, dim, -1)
    sizes = shape(turned)
    flat = b.reshape(turned, [product(sizes[:-1]), sizes[-1]])
    kernel = _merge_sort(dtype(x), descending)
    *_, positions, values = b.prim_func("sort", kernel, [flat], [(shape(flat), "int64"), (shape(flat), "int64"), (shape(flat), dtype(x))])
    return transpose(b, b.reshape(values, sizes), dim, -1), transpose(b, b.reshape(positions, sizes), dim, -1)


def _merge_sort(of: str, descending: bool) -> Any:
    """Bottom up: runs of width 1, 2, 4, ... of `order` are merged into `spare` and copied back."""
    from tvm import tirx
    from tvm.script import tirx as T

    def before(a: Any, c: Any) -> Any:
        strictly = a > c if descending else a < c
        if "float" not in of:
            return strictly
        first, second = (a, c) if descending else (c, a)
        # never a negated comparison: TVM rewrites `not a < c` to `c <= a`, which is another thing for NaN
        return tirx.any(strictly, tirx.all(tirx.isnan(first), second == second))

    @T.prim_func(private=True, s_tir=True)  # type: ignore[untyped-decorator]
    def kernel(px: T.handle, p_spare: T.handle, p_order: T.handle, p_values: T.handle) -> None:
        T.func_attr({"tirx.noalias": True})
        rows, n = T.int64(), T.int64()
        x = T.match_buffer(px, (rows, n), of)
        spare = T.match_buffer(p_spare, (rows, n), "int64")
        order = T.match_buffer(p_order, (rows, n), "int64")
        values = T.match_buffer(p_values, (rows, n), of)
        with T.sblock("sort"):
            T.reads(x[0:rows, 0:n])
            T.writes(spare[0:rows, 0:n], order[0:rows, 0:n], values[0:rows, 0:n])
            width = T.sblock_alloc_buffer((1,), "int64")
            start = T.sblock_alloc_buffer((1,), "int64")
            left = T.sblock_alloc_buffer((1,), "int64")
            right = T.sblock_alloc_buffer((1,), "int64")
            for r in T.serial(rows):
                for i in T.serial(n):
                    order[r, i] = i
                width[0] = T.int64(1)
                while width[0] < n:
                    start[0] = T.int64(0)
                    while start[0] < n:
                        left[0] = start[0]
                        right[0] = T.min(start[0] + width[0], n)
                        for k in T.serial(T.min(width[0] * T.int64(2), n - start[0])):
                            # both sides of `and` and `or` are read, so that every index must be valid
                            if right[0] < T.min(start[0] + width[0] * T.int64(2), n) and (
                                left[0] >= T.min(start[0] + width[0], n)
                                or before(x[r, order[r, T.min(right[0], n - T.int64(1))]], x[r, order[r, T.min(left[0], n - T.int64(1))]])
                            ):
                                spare[r, start[0] + k] = order[r, right[0]]
                                right[0] = right[0] + T.int64(1)
                            else:
                                spare[r, start[0] + k] = order[r, left[0]]
                                left[0] = left[0] + T.int64(1)
                        start[0] = start[0] + width[0] * T.int64(2)
                    for i in T.serial(n):
                        order[r, i] = spare[r, i]
                    width[0] = width[0] * T.int64(2)
                for i in T.serial(n):
                    values[r, i] = x[r, order[r, i]]

    return kernel


def _sort(b: Builder, node: fx.Node, x: Expr, dim: int = -1, descending: bool = False, stable: bool | None = None) -> list[Expr]:
    return list(sort(b, x, axis_of(dim, x), descending))


def _argsort(b: Builder, node: fx.Node, x: Expr, dim: int = -1, descending: bool = False, stable: bool | None = None) -> Expr:
    return sort(b, x, axis_of(dim, x), descending)[1]


def _top(b: Builder, node: fx.Node, x: Expr, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> list[Expr]:
    axis = axis_of(dim, x)
    return [_first(b, t, axis, b.shape(part)) for t, part in zip(sort(b, x, axis, largest), node.meta["val"], strict=True)]


def _first(b: Builder, x: Expr, axis: int, sizes: Sequence[Any]) -> Expr:
    return slice_axis(b, x, axis, 0, sizes) if rank(x) else x


def _refuse(node: fx.Node) -> str | None:
    return "sorting of bools" if fake(arguments_of(node)["x"]).dtype is torch.bool else None


HANDLERS: Handlers = {
    **handlers(_sort, aten.sort.default, aten.sort.stable, refuse=_refuse),
    **handlers(_argsort, aten.argsort.default, aten.argsort.stable, refuse=_refuse),
    **handlers(_top, aten.topk.default, refuse=_refuse),
}
