"""Layout: the same elements in another shape or order, and joined tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from edgecc.targets.tvm_cpu.lowering.arithmetic import result_dtype
from edgecc.targets.tvm_cpu.lowering.builder import Builder, Expr, axis_of, rank, same_shape, shape
from edgecc.targets.tvm_cpu.lowering.handler import Handlers, Value, handlers

aten = torch.ops.aten


def _reshape(b: Builder, node: fx.Node, x: Expr, **_: Any) -> Expr:
    return b.reshape(x, b.shape(node))


def _expand(b: Builder, node: fx.Node, x: Expr, **_: Any) -> Expr:
    return b.broadcast(x, b.shape(node))


def transpose(b: Builder, x: Expr, first: int, second: int) -> Expr:
    """x with two axes exchanged."""
    order = list(range(rank(x)))
    first, second = axis_of(first, x), axis_of(second, x)
    if first == second:
        return x
    order[first], order[second] = second, first
    return b.op("permute_dims", x, order)


def _transpose(b: Builder, node: fx.Node, x: Expr, dim0: int, dim1: int) -> Expr:
    return transpose(b, x, dim0, dim1)


def _swap(b: Builder, node: fx.Node, x: Expr, axis0: int, axis1: int) -> Expr:
    return transpose(b, x, axis0, axis1)


def _swap_last(b: Builder, node: fx.Node, x: Expr) -> Expr:
    return transpose(b, x, -2, -1) if rank(x) > 1 else x


def _permute(b: Builder, node: fx.Node, x: Expr, dims: list[int]) -> Expr:
    return permute(b, x, [d % len(dims) for d in dims])


def permute(b: Builder, x: Expr, order: list[int]) -> Expr:
    return x if order == list(range(len(order))) else b.op("permute_dims", x, order)


def _move(b: Builder, node: fx.Node, x: Expr, source: Any, destination: Any) -> Expr:
    sources = [axis_of(s, x) for s in (source if isinstance(source, list) else [source])]
    targets = [axis_of(d, x) for d in (destination if isinstance(destination, list) else [destination])]
    order = [axis for axis in range(rank(x)) if axis not in sources]
    for target, source_axis in sorted(zip(targets, sources, strict=True)):
        order.insert(target, source_axis)
    return permute(b, x, order)


def _concatenate(b: Builder, node: fx.Node, tensors: list[Expr], dim: int = 0) -> Expr:
    return join(b, [b.cast(t, result_dtype(node)) for t in tensors], dim)


def join(b: Builder, parts: list[Expr], dim: int) -> Expr:
    """The parts one after the other along an axis.

    Where its size is symbolic this is a kernel of ours: TVM writes the sum of the sizes in one order in the type of
    its concat and in another inside the kernel, and then refuses to fuse the two.
    """
    axis = axis_of(dim, parts[0])
    if len(parts) == 1:
        return parts[0]
    if all(isinstance(shape(p)[axis], int) for p in parts):
        return b.op("concat", parts, axis)
    return b.te("concatenate", lambda *tensors: _joined(tensors, axis), *parts)


def _joined(tensors: tuple[Any, ...], axis: int) -> Any:
    from tvm import te, tirx

    sizes = list(tensors[0].shape)
    sizes[axis] = sum((t.shape[axis] for t in tensors[1:]), tensors[0].shape[axis])

    def element(*index: Any) -> Any:
        start = sizes[axis] - tensors[-1].shape[axis]
        value = tensors[-1](*index[:axis], index[axis] - start, *index[axis + 1 :])
        for tensor in reversed(tensors[:-1]):
            end, start = start, start - tensor.shape[axis]
            value = tirx.if_then_else(index[axis] < end, tensor(*index[:axis], index[axis] - start, *index[axis + 1 :]), value)
        return value

    return te.compute(sizes, element, name="concatenate")


def _stack(b: Builder, node: fx.Node, tensors: list[Expr], dim: int = 0) -> Expr:
    axis = dim % len(node.meta["val"].shape)
    parts = [b.op("expand_dims", b.cast(t, result_dtype(node)), axis) for t in tensors]
    return parts[0] if len(parts) == 1 else b.op("concat", parts, axis)


def _repeat(b: Builder, node: fx.Node, x: Expr, repeats: list[Value] | None = None, dims: list[Value] | None = None) -> Expr:
    """The tensor, padded with leading axes of size 1, tiled."""
    from tvm import tirx

    result = b.shape(node)
    padded = b.reshape(x, [1] * (len(result) - rank(x)) + shape(x))
    if same_shape(shape(padded), result):
        return padded

    def element(t: Any, *index: Any) -> Any:
        return t(*(tirx.floormod(i, s) for i, s in zip(index, t.shape, strict=True)))

    return b.compute("tile", result, element, padded)


def _repeat_interleave(b: Builder, node: fx.Node, x: Expr, repeats: int, dim: int | None = None, output_size: Value = None) -> Expr:
    from tvm import tirx

    source = b.reshape(x, [product(shape(x))]) if dim is None else x
    axis = 0 if dim is None else axis_of(dim, x)

    def element(t: Any, *index: Any) -> Any:
        at = list(index)
        at[axis] = tirx.floordiv(at[axis], repeats)
        return t(*at)

    return b.compute("repeat_interleave", b.shape(node), element, source)


def _refuse_tensor_repeats(node: fx.Node) -> str | None:
    return None if isinstance(node.args[1], int) else "a number of repeats that is not a constant"


def product(sizes: list[Any]) -> Any:
    result: Any = 1
    for size in sizes:
        result = result * size
    return result


def _flip(b: Builder, node: fx.Node, x: Expr, dims: list[int]) -> Expr:
    axes = {axis_of(d, x) for d in dims}

    def element(t: Any, *index: Any) -> Any:
        return t(*(t.shape[k] - 1 - i if k in axes else i for k, i in enumerate(index)))

    return b.compute("flip", shape(x), element, x)


def _roll(b: Builder, node: fx.Node, x: Expr, shifts: list[int], dims: list[int]) -> Expr:
    from tvm import tirx

    sizes = shape(x)
    source = x if dims else b.reshape(x, [product(sizes)])
    shift_of: dict[int, int] = {}
    for shift, dim in zip(shifts, dims or [0], strict=True):
        shift_of[axis_of(dim, source)] = shift_of.get(axis_of(dim, source), 0) + shift

    def element(t: Any, *index: Any) -> Any:
        return t(*(tirx.floormod(i - shift_of[k], t.shape[k]) if k in shift_of else i for k, i in enumerate(index)))

    return b.reshape(b.compute("roll", shape(source), element, source), sizes)


def _pixel_shuffle(b: Builder, node: fx.Node, x: Expr, upscale_factor: int) -> Expr:
    """[.., c*r*r, h, w] -> [.., c, h*r, w*r]. Shi et al. 2016, equation 4."""
    *lead, channels, height, width = shape(x)
    r, n = upscale_factor, len(lead)
    parts = b.reshape(x, [*lead, channels // (r * r), r, r, height, width])
    order = [*range(n), n, n + 3, n + 1, n + 4, n + 2]
    return b.reshape(b.op("permute_dims", parts, order), b.shape(node))


def _pixel_unshuffle(b: Builder, node: fx.Node, x: Expr, downscale_factor: int) -> Expr:
    *lead, channels, height, width = b.shape(node)
    r, n = downscale_factor, len(lead)
    parts = b.reshape(x, [*lead, channels // (r * r), height, r, width, r])
    order = [*range(n), n, n + 2, n + 4, n + 1, n + 3]
    return b.reshape(b.op("permute_dims", parts, order), b.shape(node))


def _channel_shuffle(b: Builder, node: fx.Node, x: Expr, groups: int) -> Expr:
    batch, channels, *space = shape(x)
    parts = b.reshape(x, [batch, groups, channels // groups, *space])
    return b.reshape(transpose(b, parts, 1, 2), shape(x))


def _triangle(name: str) -> Any:
    def lower(b: Builder, node: fx.Node, x: Expr, diagonal: int = 0) -> Expr:
        from tvm import tirx

        def element(t: Any, *index: Any) -> Any:
            *_, row, column = index
            inside = column - row <= diagonal if name == "tril" else column - row >= diagonal
            return tirx.Select(inside, t(*index), tirx.const(0, t.dtype))

        return b.compute(name, shape(x), element, x)

    return lower


def _meshgrid(b: Builder, node: fx.Node, tensors: list[Expr], indexing: str = "ij") -> list[Expr]:
    grids = []
    for k, (tensor, part) in enumerate(zip(tensors, node.meta["val"], strict=True)):
        axis = {0: 1, 1: 0}.get(k, k) if indexing == "xy" else k
        sizes = b.shape(part)
        grids.append(b.broadcast(b.reshape(tensor, [s if i == axis else 1 for i, s in enumerate(sizes)]), sizes))
    return grids


def _broadcast_all(b: Builder, node: fx.Node, tensors: list[Expr]) -> list[Expr]:
    return [b.broadcast(t, b.shape(part)) for t, part in zip(tensors, node.meta["val"], strict=True)]


def _diagonal(b: Builder, node: fx.Node, x: Expr, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Expr:
    first, second = axis_of(dim1, x), axis_of(dim2, x)

    def element(t: Any, *index: Any) -> Any:
        rest = iter(index[:-1])
        position = {first: index[-1] + max(-offset, 0), second: index[-1] + max(offset, 0)}
        return t(*(position[k] if k in position else next(rest) for k in range(len(t.shape))))

    return b.compute("diagonal", b.shape(node), element, x)


HANDLERS: Handlers = {
    **handlers(_reshape, aten.view.default, aten.reshape.default, aten._unsafe_view.default, aten.view_as.default, aten.reshape_as.default),
    **handlers(_reshape, aten.flatten.using_ints, aten.unflatten.int, aten.unsqueeze.default, aten.ravel.default),
    **handlers(_reshape, aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims),
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
    **handlers(_roll, aten.roll.default),
    **handlers(_pixel_shuffle, aten.pixel_shuffle.default),
    **handlers(_pixel_unshuffle, aten.pixel_unshuffle.default),
    **handlers(_channel_shuffle, aten.channel_shuffle.default),
    **handlers(_triangle("tril"), aten.tril.default),
    **handlers(_triangle("triu"), aten.triu.default),
    **handlers(_meshgrid, aten.meshgrid.default, aten.meshgrid.indexing),
    **handlers(_broadcast_all, aten.broadcast_tensors.default),
    **handlers(_diagonal, aten.diagonal.default),
}
