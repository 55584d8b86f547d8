"""Reads and writes at computed indices. An index outside of its axis is moved inside: a wrong one never reads other memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from edgecc.targeting.lowering import arguments_of, fake, refuse_index_put
from edgecc.targets.tvm_cpu.lowering.arithmetic import result_dtype
from edgecc.targets.tvm_cpu.lowering.builder import Builder, Expr, axis_of, dtype, dtype_name, is_one, rank, shape
from edgecc.targets.tvm_cpu.lowering.handler import Handler, Handlers, Value, handlers
from edgecc.targets.tvm_cpu.lowering.layout import product

aten = torch.ops.aten


def inside(index: Any, size: Any) -> Any:
    """An index that counts from the end where it is negative, limited to the axis."""
    from tvm import tirx

    wide = index.astype("int64")
    return tirx.max(tirx.min(tirx.Select(wide < 0, wide + size, wide), size - 1), 0)


def _embedding(b: Builder, node: fx.Node, weight: Expr, indices: Expr, **_: Any) -> Expr:
    return _take(b, node, weight, 0, indices)


def _index_select(b: Builder, node: fx.Node, x: Expr, dim: int, index: Expr) -> Expr:
    return _take(b, node, x, axis_of(dim, x), index)


def _take(b: Builder, node: fx.Node, x: Expr, axis: int, index: Expr) -> Expr:
    """Whole slices of x along `axis`, at positions of any shape."""
    extra = rank(index)

    def element(t: Any, positions: Any, *at: Any) -> Any:
        return t(*at[:axis], inside(positions(*at[axis : axis + extra]), t.shape[axis]), *at[axis + extra :])

    return b.compute("take", b.shape(node), element, x, index)


def _gather(b: Builder, node: fx.Node, x: Expr, dim: int, index: Expr, sparse_grad: bool = False) -> Expr:
    axis = axis_of(dim, x)

    def element(t: Any, positions: Any, *at: Any) -> Any:
        return t(*at[:axis], inside(positions(*at), t.shape[axis]), *at[axis + 1 :])

    return b.compute("gather", b.shape(node), element, x, index) if rank(x) else x


def _index(b: Builder, node: fx.Node, x: Expr, indices: list[Expr | None]) -> Expr:
    """NumPy's integer indexing: the index tensors broadcast to one shape, which stands where the indexed axes were.

    It stands in front where the indexed axes are not neighbours.
    """
    axes = [d for d, i in enumerate(indices) if i is not None]
    tensors = [indices[d] for d in axes]
    extra = max(map(rank, tensors))
    lead = axes[0] if axes == list(range(axes[0], axes[0] + len(axes))) else 0

    def element(t: Any, *rest: Any) -> Any:
        positions, at = rest[: len(tensors)], rest[len(tensors) :]
        shared, others = at[lead : lead + extra], iter((*at[:lead], *at[lead + extra :]))
        return t(*(_position(t, d, positions[axes.index(d)], shared) if d in axes else next(others) for d in range(len(t.shape))))

    return b.compute("index", b.shape(node), element, x, *tensors)


def _position(t: Any, axis: int, positions: Any, shared: Any) -> Any:
    own = shared[len(shared) - len(positions.shape) :]
    return inside(positions(*(0 if is_one(s) else i for s, i in zip(positions.shape, own, strict=True))), t.shape[axis])


def _refuse_index(node: fx.Node) -> str | None:
    indices = [fake(i) for i in arguments_of(node)["indices"] if i is not None]
    if any(i.dtype in (torch.bool, torch.uint8) for i in indices):
        return "indexing with a mask, whose result has a size that depends on the data"
    return None if indices else "indexing without an index"


# -- writes


def _scatter(mode: str) -> Handler:
    """x with elements of `src` written, added, ... at `index` along an axis, in the order of `src`."""

    def lower(b: Builder, node: fx.Node, x: Expr, dim: int, index: Expr, src: Value = None, value: Value = None, **options: Any) -> Expr:
        to, sizes = result_dtype(node), shape(index)
        source = b.tensor(src if value is None else value, to)
        source = b.broadcast(source, sizes) if rank(source) == 0 else source
        how = {"sum": "add", "prod": "mul", "amax": "max", "amin": "min", "add": "add", "multiply": "mul"}.get(
            options.get("reduce", ""), mode
        )
        return _scatter_kernel(b, how, x, axis_of(dim, x), index, source)

    return Handler(lower, _refuse_scatter)


def _scatter_kernel(b: Builder, mode: str, x: Expr, axis: int, index: Expr, source: Expr) -> Expr:
    """One loop over the result, and for each element one along the axis of `index`: no two iterations write the same place."""
    from tvm import te, tirx

    def function(t: Any, positions: Any, values: Any) -> Any:
        k = te.reduce_axis((0, positions.shape[axis]), "k")

        def hit(at: Any) -> Any:
            covered = [at[d] < positions.shape[d] for d in range(len(at)) if d != axis]
            here = inside(positions(*at[:axis], k, *at[axis + 1 :]), t.shape[axis]) == at[axis]
            return tirx.if_then_else(tirx.all(*covered), here, False) if covered else here

        if mode == "update":
            writer = te.compute(t.shape, lambda *at: te.max(tirx.if_then_else(hit(at), k, tirx.const(-1, "int64")), axis=k), name="writer")

            def written(*at: Any) -> Any:
                w = writer(*at)
                return tirx.if_then_else(w >= 0, values(*at[:axis], tirx.max(w, 0), *at[axis + 1 :]), t(*at))

            return te.compute(t.shape, written, name="scatter")
        combine, neutral = _combination(mode, t.dtype)
        reducer = te.comm_reducer(combine, lambda _: neutral, name=mode)

        def found(*at: Any) -> Any:
            return reducer(tirx.if_then_else(hit(at), values(*at[:axis], k, *at[axis + 1 :]), neutral), axis=k)

        change = te.compute(t.shape, found, name="change")
        return te.compute(t.shape, lambda *at: combine(t(*at), change(*at)), name=f"scatter_{mode}")

    return b.te(f"scatter_{mode}", function, x, index, source)


def _index_put(b: Builder, node: fx.Node, x: Expr, indices: list[Expr | None], values: Expr, accumulate: bool = False) -> Expr:
    """x with `values` written, or added, at integer indices of neighbouring axes; the last write to a place stays."""
    from tvm import te, tirx

    axes = [d for d, i in enumerate(indices) if i is not None]
    tensors = [indices[d] for d in axes]
    to = result_dtype(node)
    if dtype(tensors[0]) == "bool":
        mask = b.reshape(tensors[0], shape(tensors[0]) + [1] * (rank(x) - rank(tensors[0])))
        return b.op("where", mask, b.tensor(values, to), x)
    positions = [b.sizes(s) for s in torch.broadcast_shapes(*(fake(node.args[1][d]).shape for d in axes))]  # type: ignore[index, no-untyped-call]
    before, after = shape(x)[: axes[0]], shape(x)[axes[-1] + 1 :]
    source = b.broadcast(b.tensor(values, to), [*before, *positions, *after])
    source = b.reshape(source, [*before, product(positions), *after])
    flat = [b.reshape(b.broadcast(t, positions), [product(positions)]) for t in tensors]

    def function(t: Any, given: Any, *where: Any) -> Any:
        k = te.reduce_axis((0, given.shape[axes[0]]), "k")

        def hit(at: Any) -> Any:
            return tirx.all(*(inside(w(k), t.shape[d]) == at[d] for d, w in zip(axes, where, strict=True)))

        def value(at: Any, write: Any) -> Any:
            return given(*at[: axes[0]], write, *at[axes[-1] + 1 :])

        if accumulate:
            total = te.compute(
                t.shape, lambda *at: te.sum(tirx.if_then_else(hit(at), value(at, k), tirx.const(0, t.dtype)), axis=k), name="total"
            )
            return te.compute(t.shape, lambda *at: t(*at) + total(*at), name="index_add")
        writer = te.compute(t.shape, lambda *at: te.max(tirx.if_then_else(hit(at), k, tirx.const(-1, "int64")), axis=k), name="writer")

        def written(*at: Any) -> Any:
            return tirx.if_then_else(writer(*at) >= 0, value(at, tirx.max(writer(*at), 0)), t(*at))

        return te.compute(t.shape, written, name="index_put")

    return b.te("index_put", function, x, source, *flat)


def _bucketize(b: Builder, node: fx.Node, x: Expr, boundaries: Expr, out_int32: bool = False, right: bool = False) -> Expr:
    """How many of the sorted boundaries lie below x, or at it with `right`."""
    from tvm import te

    to = dtype_name(torch.promote_types(*(fake(node.args[i]).dtype for i in range(2))))
    result = result_dtype(node)

    def count(t: Any, edges: Any) -> Any:
        k = te.reduce_axis((0, edges.shape[0]), "k")

        def element(*at: Any) -> Any:
            passed = edges(k) <= t(*at) if right else edges(k) < t(*at)
            return te.sum(passed.astype(result), axis=k)

        return te.compute(t.shape, element, name="bucketize")

    return b.te("bucketize", count, b.cast(x, to), b.cast(boundaries, to))


def _combination(mode: str, to: str) -> tuple[Any, Any]:
    """How two elements become one, and the element that changes nothing."""
    from tvm import tirx

    return {
        "add": (lambda a, c: a + c, tirx.const(0, to)),
        "mul": (lambda a, c: a * c, tirx.const(1, to)),
        "max": (lambda a, c: tirx.max(a, c), tirx.min_value(to)),
        "min": (lambda a, c: tirx.min(a, c), tirx.max_value(to)),
    }[mode]


def _refuse_scatter(node: fx.Node) -> str | None:
    arguments = arguments_of(node)
    if arguments.get("reduce") == "mean" or arguments.get("include_self") is False:
        return "scatter_reduce with reduce='mean' or include_self=False"
    return None if len(fake(arguments["x"]).shape) else "scatter into a tensor of rank 0"


HANDLERS: Handlers = {
    **handlers(_embedding, aten.embedding.default),
    **handlers(_index_select, aten.index_select.default),
    **handlers(_gather, aten.gather.default),
    **handlers(_index, aten.index.Tensor, aten._unsafe_index.Tensor, refuse=_refuse_index),
    **dict.fromkeys((aten.scatter.src, aten.scatter.value, aten.scatter.reduce, aten.scatter.value_reduce), _scatter("update")),
    **dict.fromkeys((aten.scatter_reduce.two,), _scatter("update")),
    **handlers(_index_put, aten.index_put.default, aten._unsafe_index_put.default, refuse=refuse_index_put),
    **handlers(_bucketize, aten.bucketize.Tensor),
    aten.scatter_add.default: _scatter("add"),
}
