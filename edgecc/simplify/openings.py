"""Rules that open operators which no target wants whole into simpler ones, and bring tuple-valued forms to plain ones.

Lists disappear: chunk, split and unbind become slices and selects, and the tuple forms of norms, pooling and
attention (what run_decompositions leaves) become the operators that a user's code gives.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from edgecc.ir.ops import bound_arguments, operator_name
from edgecc.ir.program import Program
from edgecc.simplify.layout import aten, inferred, same_sizes, sizes_as_arguments, static_shape, static_size, value
from edgecc.simplify.worklist import Missed, Rule

Opening = Callable[[Program, fx.Node, dict[str, Any]], fx.Node | str | None]
"""The node that computes the same; else why not, None where there is nothing to say."""


def opened(opening: Opening) -> Rule:
    """A rule that replaces a node by what `opening` builds before it."""

    def rule(program: Program, node: fx.Node) -> str | None:
        new = opening(program, node, bound_arguments(node))
        if not isinstance(new, fx.Node):
            return None if new is None else Missed(new)
        what = f"{operator_name(node.target)} is opened"
        program.replace(node, new)
        return what

    return rule


def open_item(program: Program, node: fx.Node) -> str | None:
    """An item of a list or tuple that an operator returns -> an operator that returns it alone."""
    source, index = node.args
    opening = _ITEMS.get(source.target) if isinstance(source, fx.Node) else None
    if opening is None:
        return None
    assert isinstance(source, fx.Node) and isinstance(index, int)
    form = opening(bound_arguments(source), len(source.meta["val"]), index, source)
    if form is None:
        return None
    target, args = form
    if not same_sizes(inferred(program, target, args).shape, value(node).shape):
        return None
    what = f"item {index} of {operator_name(source.target)} is {operator_name(target)}"
    program.replace(node, program.call_before(node, target, *args))
    return what


Form = tuple[Any, list[Any]] | None


def _part(bound: dict[str, Any], count: int, index: int, source: fx.Node) -> Form:
    """An item of split, chunk, split_with_sizes or tensor_split -> slice."""
    x, axis = bound["self"], bound["dim"] % value(bound["self"]).dim()
    sizes = [static_size(part.shape[axis]) for part in source.meta["val"]]
    if None in sizes:
        return None
    start = sum(s for s in sizes[: index % count] if s is not None)
    size = sizes[index]
    assert size is not None
    return aten.slice.Tensor, [x, axis, start, start + size]


def _row(bound: dict[str, Any], count: int, index: int, source: fx.Node) -> Form:
    """An item of unbind -> select."""
    del source
    return aten.select.int, [bound["self"], bound["dim"] % value(bound["self"]).dim(), index % count]


def _batch_norm(bound: dict[str, Any], count: int, index: int, source: fx.Node) -> Form:
    if index != 0 or bound.get("training"):
        return None
    names = ("input", "weight", "bias", "running_mean", "running_var")
    return aten.batch_norm.default, [*(bound[n] for n in names), False, bound["momentum"], bound["eps"], True]


def _layer_norm(bound: dict[str, Any], count: int, index: int, source: fx.Node) -> Form:
    names = ("input", "normalized_shape", "weight", "bias", "eps")
    return (aten.layer_norm.default, [bound[n] for n in names]) if index == 0 else None


def _group_norm(bound: dict[str, Any], count: int, index: int, source: fx.Node) -> Form:
    return (aten.group_norm.default, [bound[n] for n in ("input", "group", "weight", "bias", "eps")]) if index == 0 else None


def _max_pool(bound: dict[str, Any], count: int, index: int, source: fx.Node) -> Form:
    return (aten.max_pool2d.default, list(bound.values())) if index == 0 else None


def _attention(bound: dict[str, Any], count: int, index: int, source: fx.Node) -> Form:
    if index != 0 or bound["dropout_p"]:
        return None
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    return (aten.scaled_dot_product_attention.default, [bound[n] for n in names]) if bound["scale"] is None else None


def convolution(program: Program, node: fx.Node, bound: dict[str, Any]) -> fx.Node | str | None:
    """aten.convolution -> conv1d, conv2d, conv3d or the transposed ones."""
    rank = len(bound["stride"])
    x, weight, bias = bound["input"], bound["weight"], bound["bias"]
    if not bound["transposed"]:
        plain = (aten.conv1d.default, aten.conv2d.default, aten.conv3d.default)[rank - 1]
        return program.call_before(node, plain, x, weight, bias, *(bound[n] for n in ("stride", "padding", "dilation", "groups")))
    target = (aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input)[rank - 1]
    rest = (bound[n] for n in ("stride", "padding", "output_padding", "groups", "dilation"))
    return program.call_before(node, target, x, weight, bias, *rest)


def instance_norm(program: Program, node: fx.Node, bound: dict[str, Any]) -> fx.Node | str | None:
    """Statistics of each sample -> group norm with a group for each channel; fixed ones -> batch norm."""
    x = bound["input"]
    if not bound["use_input_stats"]:
        names = ("weight", "bias", "running_mean", "running_var")
        return program.call_before(
            node, aten.batch_norm.default, x, *(bound[n] for n in names), False, bound["momentum"], bound["eps"], True
        )
    channels = static_size(value(x).shape[1])
    if channels is None:
        return "the number of channels is dynamic"
    return program.call_before(node, aten.group_norm.default, x, channels, bound["weight"], bound["bias"], bound["eps"])


def glu(program: Program, node: fx.Node, bound: dict[str, Any]) -> fx.Node | str | None:
    """glu(x) = a * sigmoid(b), with x cut into a and b."""
    x, axis = bound["self"], bound["dim"] % value(bound["self"]).dim()
    size = static_size(value(x).shape[axis])
    if size is None:
        return "the axis that is cut is dynamic"
    a, b = (program.call_before(node, aten.slice.Tensor, x, axis, i * size // 2, (i + 1) * size // 2) for i in range(2))
    return program.call_before(node, aten.mul.Tensor, a, program.call_before(node, aten.sigmoid.default, b))


def pixel_shuffle(program: Program, node: fx.Node, bound: dict[str, Any]) -> fx.Node | str | None:
    """[..., C r r, H, W] -> [..., C, H r, W r]. Shi et al. 2016, equation 4."""
    x, r = bound["self"], bound["upscale_factor"]
    *lead, c, h, w = value(x).shape
    order = [0, 3, 1, 4, 2]  # of C, r, r, H, W
    return _shuffled(program, node, x, [*lead, c // (r * r), r, r, h, w], [len(lead) + a if a else len(lead) for a in order])


def pixel_unshuffle(program: Program, node: fx.Node, bound: dict[str, Any]) -> fx.Node | str | None:
    """[..., C, H r, W r] -> [..., C r r, H, W]."""
    x, r = bound["self"], bound["downscale_factor"]
    *lead, c, h, w = value(x).shape
    return _shuffled(program, node, x, [*lead, c, h // r, r, w // r, r], [len(lead) + a for a in (0, 2, 4, 1, 3)])


def channel_shuffle(program: Program, node: fx.Node, bound: dict[str, Any]) -> fx.Node | str | None:
    """[N, g C, ...] -> [N, C g, ...]. Zhang et al. 2018, section 3.1."""
    x, g = bound["self"], bound["groups"]
    n, c, *rest = value(x).shape
    return _shuffled(program, node, x, [n, g, c // g, *rest], [0, 2, 1])


def _shuffled(program: Program, node: fx.Node, x: fx.Node, shape: list[Any], order: list[int]) -> fx.Node | str:
    """reshape to `shape`, permute (axes that `order` leaves out stay in front and at the end), reshape to the result."""
    lead = list(range(min(order)))
    full = lead + order + list(range(max(order) + 1, len(shape)))
    if sum(static_size(s) is None for s in shape) > 1:
        return "more than one of its axes is dynamic"
    sizes = sizes_as_arguments(program, node, shape, x)
    assert sizes is not None
    turned = program.call_before(node, aten.permute.default, program.call_before(node, aten.reshape.default, x, sizes), full)
    result = sizes_as_arguments(program, node, value(node).shape, turned)
    assert result is not None
    return program.call_before(node, aten.reshape.default, turned, result)


def addcmul(program: Program, node: fx.Node, bound: dict[str, Any]) -> fx.Node | str | None:
    """x + value * (a * b), and with a / b for addcdiv."""
    joined = aten.mul.Tensor if node.target == aten.addcmul.default else aten.div.Tensor
    term = program.call_before(node, joined, bound["tensor1"], bound["tensor2"])
    if bound["value"] != 1:
        term = program.call_before(node, aten.mul.Tensor, term, bound["value"])
    return program.call_before(node, aten.add.Tensor, bound["self"], term)


def vector_norm(program: Program, node: fx.Node, bound: dict[str, Any]) -> fx.Node | str | None:
    """Norm of order 1, 2 or infinity -> sum of magnitudes, root of the sum of squares, largest magnitude."""
    x = bound["self"]
    order = bound.get("ord", bound.get("p"))
    order = 2 if order is None else order
    axes = bound["dim"] or list(range(value(x).dim()))
    axes = [axes] if isinstance(axes, int) else axes
    if not value(x).is_floating_point() or bound.get("dtype") is not None:
        return "its element type is not that of its argument"
    if order == 2:
        squares = program.call_before(node, aten.pow.Tensor_Scalar, x, 2)
        return program.call_before(
            node, aten.sqrt.default, program.call_before(node, aten.sum.dim_IntList, squares, axes, bound["keepdim"])
        )
    if order not in (1, math.inf):
        return f"its order is {order}"
    reduced = aten.sum.dim_IntList if order == 1 else aten.amax.default
    return program.call_before(node, reduced, program.call_before(node, aten.abs.default, x), axes, bound["keepdim"])


def mish(program: Program, node: fx.Node, bound: dict[str, Any]) -> fx.Node | str | None:
    """x * tanh(softplus(x)). Misra 2019."""
    plus = program.call_before(node, aten.softplus.default, bound["self"])
    return program.call_before(node, aten.mul.Tensor, bound["self"], program.call_before(node, aten.tanh.default, plus))


def log_sigmoid(program: Program, node: fx.Node, bound: dict[str, Any]) -> fx.Node | str | None:
    """-softplus(-x)."""
    negative = program.call_before(node, aten.neg.default, bound["self"])
    return program.call_before(node, aten.neg.default, program.call_before(node, aten.softplus.default, negative))


def scatter(program: Program, node: fx.Node, bound: dict[str, Any]) -> fx.Node | str | None:
    """select_scatter and slice_scatter with step 1 (what a write into a view becomes) -> a concatenation."""
    x, source, axis = bound["self"], bound["src"], bound["dim"] % value(bound["self"]).dim()
    size = static_size(value(x).shape[axis])
    if node.target == aten.select_scatter.default:
        if size is None:
            return "the axis that it writes to is dynamic"
        start = bound["index"] % size
        stop = start + 1
        source = program.call_before(node, aten.unsqueeze.default, source, axis)
    else:
        start, stop = bound["start"] or 0, bound["end"]
        stop = size if stop is None else stop
        if size is None or bound["step"] != 1 or not isinstance(start, int) or not isinstance(stop, int):
            return "its range is dynamic or has gaps"
        start, stop, _ = slice(start, stop).indices(size)
    parts = [program.call_before(node, aten.slice.Tensor, x, axis, a, b) for a, b in ((0, start), (stop, size)) if a < b]
    parts.insert(1 if start else 0, source)
    return program.call_before(node, aten.cat.default, parts, axis) if len(parts) > 1 else source


def diff(program: Program, node: fx.Node, bound: dict[str, Any]) -> fx.Node | str | None:
    """x[1:] - x[:-1] along an axis, with what stands before and after."""
    x, axis = bound["self"], bound["dim"] % value(bound["self"]).dim()
    if bound["n"] != 1 or value(x).dtype == torch.bool:
        return "it is of bools or repeated"
    joined = [part for part in (bound["prepend"], x, bound["append"]) if part is not None]
    if any(value(part).dtype != value(x).dtype for part in joined):
        return "its parts differ in dtype"
    whole = program.call_before(node, aten.cat.default, joined, axis) if len(joined) > 1 else x
    later = program.call_before(node, aten.slice.Tensor, whole, axis, 1)
    earlier = program.call_before(node, aten.slice.Tensor, whole, axis, 0, -1)
    return program.call_before(node, aten.sub.Tensor, later, earlier)


def fill(program: Program, node: fx.Node, bound: dict[str, Any]) -> fx.Node | str | None:
    """fill(x, v), which reads of x only the sizes -> v, expanded."""
    shape = static_shape(value(node))
    if shape is None:
        return "the shape that it fills is dynamic"
    filled = bound["value"]
    if not isinstance(filled, fx.Node):
        return program.call_before(node, aten.full.default, shape, filled, dtype=value(node).dtype)
    if value(filled).dtype != value(node).dtype:
        filled = program.call_before(node, aten.to.dtype, filled, value(node).dtype)
    return program.call_before(node, aten.expand.default, filled, shape)


def copy(program: Program, node: fx.Node, bound: dict[str, Any]) -> fx.Node | str | None:
    """copy(x, y), which reads of x only sizes and dtype -> y, cast."""
    source = bound["src"]
    if not same_sizes(value(source).shape, value(node).shape):
        return "it broadcasts"
    return source if value(source).dtype == value(node).dtype else program.call_before(node, aten.to.dtype, source, value(node).dtype)


_ITEMS: dict[Any, Callable[[dict[str, Any], int, int, fx.Node], Form]] = {
    aten.chunk.default: _part,
    aten.split.Tensor: _part,
    aten.split.sizes: _part,
    aten.split_with_sizes.default: _part,
    aten.tensor_split.sections: _part,
    aten.tensor_split.indices: _part,
    aten.unsafe_chunk.default: _part,
    aten.unsafe_split.Tensor: _part,
    aten.unbind.int: _row,
    aten._native_batch_norm_legit_no_training.default: _batch_norm,
    aten.native_batch_norm.default: _batch_norm,
    aten.native_layer_norm.default: _layer_norm,
    aten.native_group_norm.default: _group_norm,
    aten.max_pool2d_with_indices.default: _max_pool,
    aten._scaled_dot_product_flash_attention_for_cpu.default: _attention,
}

_OPENINGS: dict[torch._ops.OpOverload, Opening] = {
    aten.convolution.default: convolution,
    aten.instance_norm.default: instance_norm,
    aten.glu.default: glu,
    aten.pixel_shuffle.default: pixel_shuffle,
    aten.pixel_unshuffle.default: pixel_unshuffle,
    aten.channel_shuffle.default: channel_shuffle,
    aten.native_channel_shuffle.default: channel_shuffle,
    aten.addcmul.default: addcmul,
    aten.addcdiv.default: addcmul,
    aten.linalg_vector_norm.default: vector_norm,
    aten.norm.ScalarOpt_dim: vector_norm,
    aten.mish.default: mish,
    aten.log_sigmoid.default: log_sigmoid,
    aten.select_scatter.default: scatter,
    aten.slice_scatter.default: scatter,
    aten.diff.default: diff,
    aten.fill.Scalar: fill,
    aten.fill.Tensor: fill,
    aten.copy.default: copy,
}

RULES: dict[object, tuple[Rule, ...]] = {operator.getitem: (open_item,), **{t: (opened(o),) for t, o in _OPENINGS.items()}}
