"""Rules that give each operator one spelling: one overload, positional arguments, non-negative dims, no defaults.

The normal spellings: `reshape` for view, flatten, unflatten; `permute` for transpose, t, mT, movedim; `expand` for
expand_as and broadcast_to; `to.dtype` for every cast; `clamp` for hardtanh, relu6 and its own family; `matmul` for mm
and bmm; `pad` for all padding; `mean.dim` for global average pooling; the Tensor overload for arithmetic with a number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from edgecc.ir.ops import bound_arguments, operator_name
from edgecc.ir.program import Program
from edgecc.simplify.layout import (
    aten,
    inferred,
    is_tensor,
    same_layout,
    same_size,
    sizes_as_arguments,
    static_shape,
    static_size,
    value,
)
from edgecc.simplify.worklist import Rule

Spelling = tuple[Any, list[Any]]

_SAME_ARGUMENTS = {
    aten.view.default: aten.reshape.default,
    aten._unsafe_view.default: aten.reshape.default,
    aten.broadcast_to.default: aten.expand.default,
    aten.mm.default: aten.matmul.default,
    aten.bmm.default: aten.matmul.default,
    aten.add.Scalar: aten.add.Tensor,
    aten.sub.Scalar: aten.sub.Tensor,
    aten.mul.Scalar: aten.mul.Tensor,
    aten.div.Scalar: aten.div.Tensor,
    aten.multiply.Tensor: aten.mul.Tensor,
    aten.subtract.Tensor: aten.sub.Tensor,
    aten.true_divide.Tensor: aten.div.Tensor,
    aten.divide.Tensor: aten.div.Tensor,
    aten.negative.default: aten.neg.default,
    aten.absolute.default: aten.abs.default,
    aten.concat.default: aten.cat.default,
    aten.concatenate.default: aten.cat.default,
    aten.special_expit.default: aten.sigmoid.default,
    aten.special_erf.default: aten.erf.default,
    aten.special_log1p.default: aten.log1p.default,
    aten.special_expm1.default: aten.expm1.default,
    aten.special_exp2.default: aten.exp2.default,
    aten.special_softmax.default: aten.softmax.int,
    aten.special_log_softmax.default: aten.log_softmax.int,
    aten.greater.Tensor: aten.gt.Tensor,
    aten.greater.Scalar: aten.gt.Scalar,
    aten.less.Tensor: aten.lt.Tensor,
    aten.less.Scalar: aten.lt.Scalar,
    aten.not_equal.Tensor: aten.ne.Tensor,
    aten.not_equal.Scalar: aten.ne.Scalar,
    aten.__and__.Tensor: aten.bitwise_and.Tensor,
    aten.__or__.Tensor: aten.bitwise_or.Tensor,
    aten.__xor__.Tensor: aten.bitwise_xor.Tensor,
    aten.hardtanh.default: aten.clamp.default,
    aten.clamp_min.default: aten.clamp.default,
    aten.clip.default: aten.clamp.default,
}


def respell(program: Program, node: fx.Node) -> str | None:
    """The same operator under its normal name."""
    target = _SAME_ARGUMENTS[node.target]  # type: ignore[index]
    args = list(bound_arguments(node).values())
    return _retarget(program, node, target, args[: len(target._schema.arguments)], surely=True)


def respell_by(form: Callable[[Program, fx.Node], Spelling | None], *, surely: bool = False) -> Rule:
    """A rule that retargets a node to what `form` says, `surely` where the layout needs no check (inferring is slow)."""

    def rule(program: Program, node: fx.Node) -> str | None:
        spelling = form(program, node)
        if spelling is None:
            return None
        said = _retarget(program, node, *spelling, surely=surely)
        if said is None:
            program.erase_dead(n for n in pytree.tree_leaves(spelling[1]) if isinstance(n, fx.Node))
        return said

    return rule


def as_reshape(program: Program, node: fx.Node) -> Spelling | None:
    """flatten, unflatten, view_as, reshape_as -> reshape."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    sizes = sizes_as_arguments(program, node, value(node).shape, source)
    return None if sizes is None else (aten.reshape.default, [source, sizes])


def as_expand(program: Program, node: fx.Node) -> Spelling | None:
    """expand_as -> expand."""
    source, like = node.args[0], node.args[1]
    assert isinstance(source, fx.Node) and isinstance(like, fx.Node)
    kept = _kept_axes(value(source), value(node))
    sizes = [-1 if keep else static_size(s) for keep, s in zip(kept, value(node).shape, strict=True)]
    named = [s if s is not None else program.call_before(node, aten.sym_size.int, like, axis) for axis, s in enumerate(sizes)]
    return aten.expand.default, [source, named]


def as_permute(program: Program, node: fx.Node) -> Spelling | None:
    """transpose, swapaxes, t, mT, numpy_T, movedim -> permute."""
    bound = bound_arguments(node)
    x = bound.pop("self")
    rank = value(x).dim()
    order = list(range(rank))
    name = operator_name(node.target).split(".")[1]
    if name in ("transpose", "swapaxes", "swapdims"):
        a, b = (axis % rank for axis in bound.values())
        order[a], order[b] = order[b], order[a]
    elif name in ("t", "numpy_T"):
        order.reverse()
    elif name in ("mT", "adjoint"):
        order[-2], order[-1] = order[-1], order[-2]
    else:
        source, destination = ([axis % rank for axis in ([a] if isinstance(a, int) else a)] for a in bound.values())
        order = [axis for axis in order if axis not in source]
        for place, axis in sorted(zip(destination, source, strict=True)):
            order.insert(place, axis)
    return aten.permute.default, [x, order]


def as_cast(program: Program, node: fx.Node) -> Spelling | None:
    """to.dtype_layout, to.device, to.other, _to_copy, type_as -> to.dtype. Devices are all one at this place."""
    del program
    return aten.to.dtype, [node.args[0], value(node).dtype]


def as_plain_cast(program: Program, node: fx.Node) -> Spelling | None:
    """to.dtype with flags (non_blocking, copy, memory_format) -> without, where they do not change the layout."""
    del program
    return (aten.to.dtype, list(node.args[:2])) if len(node.args) > 2 or node.kwargs else None


def as_clamp_from_above(program: Program, node: fx.Node) -> Spelling | None:
    del program
    return aten.clamp.default, [node.args[0], None, node.args[1]]


def as_clamp_to_six(program: Program, node: fx.Node) -> Spelling | None:
    del program
    return aten.clamp.default, [node.args[0], 0.0, 6.0]


def as_relu(program: Program, node: fx.Node) -> Spelling | None:
    """clamp(x, 0) -> relu."""
    del program
    bound = bound_arguments(node)
    at_zero = isinstance(bound["min"], (int, float)) and bound["min"] == 0 and bound["max"] is None
    return (aten.relu.default, [bound["self"]]) if at_zero else None


def as_sub(program: Program, node: fx.Node) -> Spelling | None:
    """rsub(x, y) -> y - x. A number minus a tensor has no other operator and stays `rsub.Scalar`."""
    del program
    bound = bound_arguments(node)
    return (aten.sub.Tensor, [bound["other"], bound["self"]]) if bound["alpha"] == 1 else None


def as_square(program: Program, node: fx.Node) -> Spelling | None:
    """square -> pow(x, 2)."""
    del program
    return aten.pow.Tensor_Scalar, [node.args[0], 2]


def as_softmax(program: Program, node: fx.Node) -> Spelling | None:
    """_softmax, _log_softmax -> the overload that the user's code gives."""
    del program
    x, dim, half_to_float = bound_arguments(node).values()
    named = {aten._softmax.default: aten.softmax.int, aten._log_softmax.default: aten.log_softmax.int}
    return None if half_to_float else (named[node.target], [x, dim])  # type: ignore[index]


def as_global_mean(program: Program, node: fx.Node) -> Spelling | None:
    """Adaptive average pooling to one element -> mean over the spatial axes."""
    del program
    x, sizes = node.args[0], node.args[1]
    assert isinstance(x, fx.Node) and isinstance(sizes, (list, tuple))
    rank = value(x).dim()
    return (aten.mean.dim, [x, list(range(rank - len(sizes), rank)), True]) if all(s == 1 for s in sizes) else None


def as_pad(program: Program, node: fx.Node) -> Spelling | None:
    """constant_pad_nd, reflection_pad, replication_pad -> pad."""
    del program
    name = operator_name(node.target).split(".")[1]
    if name == "constant_pad_nd":
        x, pad, fill = bound_arguments(node).values()
        return aten.pad.default, [x, pad, "constant", fill or None]
    return aten.pad.default, [node.args[0], node.args[1], "reflect" if name.startswith("reflection") else "replicate"]


def as_explicit_padding(program: Program, node: fx.Node) -> Spelling | None:
    """Convolution with padding "same" or "valid" -> with numbers; an odd total is padded first, as PyTorch does."""
    x, weight, bias, stride, padding, dilation, groups = bound_arguments(node).values()
    kernel = static_shape(value(weight))
    if kernel is None:
        return None
    spatial = kernel[2:]
    dilation = list(dilation) * (len(spatial) // len(dilation))
    totals = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilation, spatial, strict=True)]
    if any(t % 2 for t in totals):
        odd = [side for t in reversed(totals) for side in (0, t % 2)]
        x = program.call_before(node, aten.pad.default, x, odd)
    name = operator_name(node.target).split(".")[1]
    return getattr(aten, name).default, [x, weight, bias, stride, [t // 2 for t in totals], dilation, groups]


def name_squeezed_axes(program: Program, node: fx.Node) -> Spelling | None:
    """squeeze, squeeze.dim -> squeeze.dims of the axes that are one."""
    del program
    x = node.args[0]
    assert isinstance(x, fx.Node)
    shape = value(x).shape
    asked: Any = range(len(shape)) if node.target == aten.squeeze.default else node.args[1]
    axes = [a % max(len(shape), 1) for a in ([asked] if isinstance(asked, int) else asked)]
    ones = [a for a in axes if static_size(shape[a]) == 1]
    return (aten.squeeze.dims, [x, ones]) if node.target != aten.squeeze.dims or ones != node.args[1] else None


def normal_sizes(program: Program, node: fx.Node) -> str | None:
    """Sizes of a reshape: ints, and -1 for a lone dynamic one."""
    static = [static_size(s) for s in value(node).shape]
    if static.count(None) == 1 and 0 not in static:
        return _set_sizes(program, node, [-1 if s is None else s for s in static])
    given = list(node.args[1])  # type: ignore[arg-type]
    return _set_sizes(program, node, [g if s is None else s for s, g in zip(static, given, strict=True)])


def normal_expansion(program: Program, node: fx.Node) -> str | None:
    """Sizes of an expand: -1 for the axes that stay."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    kept = _kept_axes(value(source), value(node))
    given = list(node.args[1])  # type: ignore[arg-type]
    sizes = [-1 if keep else static_size(s) for keep, s in zip(kept, value(node).shape, strict=True)]
    return _set_sizes(program, node, [g if s is None else s for s, g in zip(sizes, given, strict=True)])


def normal_arguments(program: Program, node: fx.Node) -> str | None:
    """Positional arguments in the order of the schema, without trailing defaults; dims counted from the front."""
    del program
    if not isinstance(node.target, torch._ops.OpOverload):
        return None
    positional, keyword_only = _parameters(node.target)
    args = [_normal_dim(node, p.name, a) for p, a in zip(positional, node.args, strict=False)]
    kwargs = dict(node.kwargs)
    for parameter in positional[len(args) :]:
        if not kwargs.keys() - keyword_only:
            break
        args.append(_normal_dim(node, parameter.name, kwargs.pop(parameter.name, parameter.default_value)))
    while args and _is_default(positional[len(args) - 1], args[-1]):
        args.pop()
    if _repr(args) == _repr(node.args) and kwargs == node.kwargs:
        return None
    node.args, node.kwargs = tuple(args), kwargs
    return "arguments in normal order"


@cache
def _parameters(target: torch._ops.OpOverload) -> tuple[list[Any], frozenset[str]]:
    arguments = target._schema.arguments
    return [a for a in arguments if not a.kwarg_only], frozenset(a.name for a in arguments if a.kwarg_only)


_NEW_AXIS = (aten.unsqueeze.default, aten.stack.default)
_DIMS = frozenset({"dim", "dims", "dim0", "dim1", "start_dim", "end_dim"})
_SHIFTED = (aten.flip.default, aten.roll.default)


def _normal_dim(node: fx.Node, name: str, given: Any) -> Any:
    """The argument, its negative axes replaced where it holds axes. roll and flip count theirs like all others."""
    if name not in _DIMS or given is None:
        return given
    first = node.args[0] if node.args else None
    tensor = first[0] if isinstance(first, (list, tuple)) and first else first
    if not is_tensor(tensor):
        return given
    assert isinstance(tensor, fx.Node)
    rank = max(value(tensor).dim() + (node.target in _NEW_AXIS), 1)

    def normal(axis: Any) -> Any:
        return axis + rank if isinstance(axis, int) and not isinstance(axis, bool) and -rank <= axis < 0 else axis

    return [normal(a) for a in given] if isinstance(given, (list, tuple)) else normal(given)


def _is_default(parameter: Any, given: Any) -> bool:
    if isinstance(given, fx.Node) or not parameter.has_default_value():
        return False
    default = parameter.default_value
    if isinstance(given, (list, tuple)) and isinstance(default, (list, tuple)):
        return list(given) == list(default)
    return type(given) is type(default) and bool(given == default)


def _retarget(program: Program, node: fx.Node, target: Any, args: Sequence[Any], *, surely: bool) -> str | None:
    """Retarget in place if the value keeps dtype, shape and strides."""
    before = operator_name(node.target)
    if not surely and not same_layout(inferred(program, target, args), node.meta["val"]):
        return None
    old = list(node.all_input_nodes)
    node.target, node.args, node.kwargs = target, tuple(args), {}
    program.erase_dead(old)
    return f"{before} is spelled {operator_name(target)}"


def _set_sizes(program: Program, node: fx.Node, sizes: list[Any]) -> str | None:
    if _repr(sizes) == _repr(node.args[1]):
        return None
    old = list(node.all_input_nodes)
    node.args = (node.args[0], sizes)
    program.erase_dead(old)
    return "sizes in normal form"


def _kept_axes(source: torch.Tensor, result: torch.Tensor) -> list[bool]:
    """For each axis of an expanded value whether it is as it was in `source`."""
    lead = result.dim() - source.dim()
    return [a >= lead and same_size(source.shape[a - lead], size) for a, size in enumerate(result.shape)]


def _repr(arguments: Any) -> str:
    """Text that tells 1 from 1.0 and True, and a list from nothing else: tuples and fx lists read as lists."""
    if isinstance(arguments, (list, tuple)):
        return f"[{', '.join(map(_repr, arguments))}]"
    return repr(arguments)


def _table() -> dict[object, tuple[Rule, ...]]:
    reshape, permute = respell_by(as_reshape, surely=True), respell_by(as_permute, surely=True)
    cast, pad, padding = respell_by(as_cast), respell_by(as_pad), respell_by(as_explicit_padding)
    squeeze, mean, softmax = respell_by(name_squeezed_axes, surely=True), respell_by(as_global_mean), respell_by(as_softmax)
    flattening = (aten.flatten.using_ints, aten.unflatten.int, aten.view_as.default, aten.reshape_as.default)
    transposing = (
        *(aten.transpose.int, aten.swapaxes.default, aten.swapdims.default, aten.t.default, aten.numpy_T.default, aten.mT.default),
        *(aten.movedim.int, aten.movedim.intlist, aten.moveaxis.int, aten.moveaxis.intlist),
    )
    casting = (aten.to.dtype_layout, aten.to.device, aten.to.other, aten._to_copy.default, aten.type_as.default)
    pooling = (aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default, aten.adaptive_avg_pool3d.default)
    padded = (
        *(aten.constant_pad_nd.default, aten.reflection_pad1d.default, aten.reflection_pad2d.default, aten.reflection_pad3d.default),
        *(aten.replication_pad1d.default, aten.replication_pad2d.default, aten.replication_pad3d.default),
    )
    return {
        None: (normal_arguments,),
        **dict.fromkeys(_SAME_ARGUMENTS, (respell,)),
        **dict.fromkeys(flattening, (reshape,)),
        **dict.fromkeys(transposing, (permute,)),
        **dict.fromkeys(casting, (cast,)),
        **dict.fromkeys(pooling, (mean,)),
        **dict.fromkeys(padded, (pad,)),
        **dict.fromkeys((aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding), (padding,)),
        **dict.fromkeys((aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims), (squeeze,)),
        **dict.fromkeys((aten._softmax.default, aten._log_softmax.default), (softmax,)),
        aten.to.dtype: (respell_by(as_plain_cast),),
        aten.expand_as.default: (respell_by(as_expand, surely=True),),
        aten.clamp_max.default: (respell_by(as_clamp_from_above),),
        aten.relu6.default: (respell_by(as_clamp_to_six, surely=True),),
        aten.clamp.default: (respell_by(as_relu, surely=True),),
        aten.rsub.Tensor: (respell_by(as_sub),),
        aten.square.default: (respell_by(as_square, surely=True),),
        aten.reshape.default: (normal_sizes,),
        aten.expand.default: (normal_expansion,),
    }


RULES = _table()
