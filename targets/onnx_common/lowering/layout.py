"""Layout: the same elements in another shape or order, and joined tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from edgecc.ir.fake import size_expression
from edgecc.targeting.lowering import arguments_of, fake
from edgecc.targets.onnx_common.builder import Builder
from edgecc.targets.onnx_common.lowering.handler import Handlers, Value, first, handlers
from edgecc.targets.onnx_common.sizes import broadcast, same_sizes

aten = torch.ops.aten
_BROADCASTING = {
    *(aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.logical_and.default, aten.masked_fill.Scalar),
    *(aten.eq.Tensor, aten.ne.Tensor, aten.lt.Tensor, aten.le.Tensor, aten.gt.Tensor, aten.ge.Tensor),
    *(aten.bitwise_and.Tensor, aten.bitwise_or.Tensor, aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf),
}


def _reshape(b: Builder, node: fx.Node, x: Value, **_: Any) -> Value:
    return b.reshape(x, b.sizes_of(first(node)))


def _unsqueeze(b: Builder, node: fx.Node, x: Value, dim: int) -> Value:
    return b.unsqueeze(x, [dim % (b.rank(x) + 1)])


def _squeeze(b: Builder, node: fx.Node, x: Value, dim: Any = None) -> Value:
    named = range(b.rank(x)) if dim is None else [b.axis(d, x) for d in (dim if isinstance(dim, list) else [dim])]
    return b.squeeze(x, [d for d in named if b.rank(x) and b.sizes(x)[d] == 1])


def _expand(b: Builder, node: fx.Node, x: Value, **_: Any) -> Value:
    """Nothing, where all that reads the result would broadcast x by itself."""
    return x if node.users and all(_broadcasts(user, node) for user in node.users) else b.expand(x, b.sizes_of(first(node)))


def _broadcasts(user: fx.Node, node: fx.Node) -> bool:
    """Whether a call has the same result where it reads the first operand of `node`, an expansion, instead of it."""
    if user.target not in _BROADCASTING:
        return False
    narrow = fake(node.args[0])
    operands = [narrow if a is node else fake(a) for a in user.all_input_nodes]
    sizes = [[size_expression(s) for s in o.shape] for o in operands if isinstance(o, torch.Tensor)]
    return same_sizes(broadcast(sizes), [size_expression(s) for s in first(user).shape])


def _transpose(b: Builder, node: fx.Node, x: Value, dim0: int, dim1: int) -> Value:
    return b.swap(x, b.axis(dim0, x), b.axis(dim1, x)) if b.rank(x) else x


def _swap(b: Builder, node: fx.Node, x: Value, axis0: int, axis1: int) -> Value:
    return _transpose(b, node, x, axis0, axis1)


def _swap_last(b: Builder, node: fx.Node, x: Value) -> Value:
    return _transpose(b, node, x, -2, -1) if b.rank(x) > 1 else x


def _permute(b: Builder, node: fx.Node, x: Value, dims: list[int]) -> Value:
    return b.transpose(x, [d % len(dims) for d in dims])


def _move(b: Builder, node: fx.Node, x: Value, source: Any, destination: Any) -> Value:
    sources = [b.axis(s, x) for s in (source if isinstance(source, list) else [source])]
    targets = [b.axis(d, x) for d in (destination if isinstance(destination, list) else [destination])]
    order = [axis for axis in range(b.rank(x)) if axis not in sources]
    for target, source_axis in sorted(zip(targets, sources, strict=True)):
        order.insert(target, source_axis)
    return b.transpose(x, order)


def _concatenate(b: Builder, node: fx.Node, tensors: list[Value], dim: int = 0) -> Value:
    to, rank = first(node).dtype, first(node).dim()
    return b.concat([b.cast(t, to) for t in tensors if b.rank(t) == rank], dim % rank)  # PyTorch skips old-style empty ones


def _stack(b: Builder, node: fx.Node, tensors: list[Value], dim: int = 0) -> Value:
    axis = dim % first(node).dim()
    return b.concat([b.unsqueeze(b.cast(t, first(node).dtype), [axis]) for t in tensors], axis)


def _repeat(b: Builder, node: fx.Node, x: Value, repeats: list[Value] | None = None, dims: list[Value] | None = None) -> Value:
    """The tensor, padded with leading axes of size 1, tiled."""
    given = list((repeats if repeats is not None else dims) or [])
    sizes = b.sizes_of(first(node))
    times = [1] * (len(sizes) - len(given)) + given
    padded = b.reshape(x, [1] * (len(sizes) - b.rank(x)) + b.sizes(x))
    return padded if same_sizes(b.sizes(padded), sizes) else b.op("Tile", padded, b.shapes.vector(times), sizes=sizes)


def _repeat_interleave(b: Builder, node: fx.Node, x: Value, repeats: int, dim: int | None = None, output_size: Value = None) -> Value:
    """Each slice `repeats` times: a new axis behind the repeated one, expanded, and joined with it."""
    source = b.reshape(x, [b.count(x, range(b.rank(x)))]) if dim is None else x
    axis, sizes = (0 if dim is None else b.axis(dim, x)), b.sizes(source)
    wide = b.expand(b.unsqueeze(source, [axis + 1]), [*sizes[: axis + 1], repeats, *sizes[axis + 1 :]])
    return b.reshape(wide, b.sizes_of(first(node)))


def _refuse_tensor_repeats(node: fx.Node, opset: int) -> str | None:
    return None if isinstance(node.args[1], int) else "a number of repeats that is not a constant"


def _flip(b: Builder, node: fx.Node, x: Value, dims: list[int]) -> Value:
    """One Slice with a step of -1. ONNX Slice: an end far below the first element reaches it."""
    axes = [b.axis(d, x) for d in dims]
    vectors = ([-1] * len(axes), [-(2**63)] * len(axes), axes, [-1] * len(axes))
    return b.op("Slice", x, *map(b.shapes.vector, vectors), sizes=b.sizes(x))


def _roll(b: Builder, node: fx.Node, x: Value, shifts: list[int], dims: list[int]) -> Value:
    result = x if dims else b.reshape(x, [b.count(x, range(b.rank(x)))])
    for shift, dim in zip(shifts, dims or [0], strict=True):
        result = _rolled(b, result, shift, b.axis(dim, result))
    return b.reshape(result, b.sizes(x))


def _rolled(b: Builder, x: Value, shift: int, axis: int) -> Value:
    """The last `shift` slices before the others."""
    sizes = list(b.sizes(x))
    size = sizes[axis]
    shift = shift % size if isinstance(size, int) else shift
    if not shift:
        return x
    behind = shift if shift > 0 else size + shift
    tail = b.slice(x, axis, -shift, None, [*sizes[:axis], behind, *sizes[axis + 1 :]])
    return b.concat([tail, b.slice(x, axis, 0, -shift, [*sizes[:axis], size - behind, *sizes[axis + 1 :]])], axis)


def _refuse_roll(node: fx.Node, opset: int) -> str | None:
    arguments = arguments_of(node)
    shape, dims = fake(arguments["x"]).shape, arguments["dims"]
    if not dims:
        return None if all(isinstance(s, int) for s in shape) else "a shift along all axes of a dynamic size"
    far = any(isinstance(shape[d], torch.SymInt) and abs(s) > 1 for s, d in zip(arguments["shifts"], dims, strict=True))
    return "a shift by more than one along a dynamic axis" if far else None


def _triangle(upper: int) -> Any:
    def lower(b: Builder, node: fx.Node, x: Value, diagonal: int = 0) -> Value:
        """ONNX Trilu of the dtypes that ONNX Runtime has: of others through int32."""
        through = torch.int32 if b.dtype(x) in (torch.int16, torch.int8, torch.uint8) else b.dtype(x)
        offset = b.constant(diagonal, torch.int64) if diagonal else None
        return b.cast(b.op("Trilu", b.cast(x, through), offset, upper=upper, sizes=b.sizes(x)), b.dtype(x))

    return lower


def _meshgrid(b: Builder, node: fx.Node, tensors: list[Value], indexing: str = "ij") -> list[Value]:
    grids = []
    for k, (tensor, part) in enumerate(zip(tensors, node.meta["val"], strict=True)):
        axis = {0: 1, 1: 0}.get(k, k) if indexing == "xy" else k
        sizes = b.sizes_of(part)
        grids.append(b.expand(b.reshape(tensor, [s if i == axis else 1 for i, s in enumerate(sizes)]), sizes))
    return grids


def _broadcast_all(b: Builder, node: fx.Node, tensors: list[Value]) -> list[Value]:
    return [b.expand(t, b.sizes_of(part)) for t, part in zip(tensors, node.meta["val"], strict=True)]


def _diagonal(b: Builder, node: fx.Node, x: Value, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Value:
    """The two axes last, flat, and of them every element on the diagonal."""
    axes = [b.axis(dim1, x), b.axis(dim2, x)]
    order = [k for k in range(b.rank(x)) if k not in axes] + axes
    turned, length = b.transpose(x, order), first(node).shape[-1]
    *lead, rows, columns = b.sizes(turned)
    start = offset if offset >= 0 else -offset * columns
    flat = b.reshape(turned, [*lead, rows * columns])
    return b.gather(flat, b.constant(start + torch.arange(length) * (columns + 1), torch.int64, "diagonal"), len(lead))


def _refuse_diagonal(node: fx.Node, opset: int) -> str | None:
    arguments = arguments_of(node)
    x = fake(arguments["x"])
    dynamic = any(isinstance(x.shape[arguments[d]], torch.SymInt) for d in ("dim1", "dim2"))
    return "the diagonal of a dynamic size" if dynamic else None


def _copy(b: Builder, node: fx.Node, x: Value, src: Value, non_blocking: bool = False) -> Value:
    return b.expand(b.cast(src, first(node).dtype), b.sizes(x))


HANDLERS: Handlers = {
    **handlers(_reshape, aten.view.default, aten.reshape.default, aten._unsafe_view.default, aten.view_as.default, aten.reshape_as.default),
    **handlers(_reshape, aten.flatten.using_ints, aten.unflatten.int, aten.ravel.default),
    **handlers(_unsqueeze, aten.unsqueeze.default),
    **handlers(_squeeze, aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims),
    **handlers(_expand, aten.expand.default, aten.expand_as.default, aten.broadcast_to.default),
    **handlers(_transpose, aten.transpose.int),
    **handlers(_swap, aten.swapaxes.default),
    **handlers(_swap_last, aten.t.default, aten.numpy_T.default, aten.mT.default, aten.adjoint.default),
    **handlers(_permute, aten.permute.default),
    **handlers(_move, aten.movedim.int, aten.movedim.intlist),
    **handlers(_concatenate, aten.cat.default, aten.concat.default),
    **handlers(_stack, aten.stack.default),
    **handlers(_repeat, aten.repeat.default, aten.tile.default),
    **handlers(_repeat_interleave, aten.repeat_interleave.self_int, refuse=_refuse_tensor_repeats),
    **handlers(_flip, aten.flip.default),
    **handlers(_roll, aten.roll.default, refuse=_refuse_roll),
    **handlers(_triangle(0), aten.tril.default),
    **handlers(_triangle(1), aten.triu.default),
    **handlers(_meshgrid, aten.meshgrid.default, aten.meshgrid.indexing),
    **handlers(_broadcast_all, aten.broadcast_tensors.default),
    **handlers(_diagonal, aten.diagonal.default, refuse=_refuse_diagonal),
    **handlers(_copy, aten.copy.default),
}
