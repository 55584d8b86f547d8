"""Rules that remove what computes nothing: casts to the same dtype, views of the same shape, copies, dropout.

Every rule keeps the strides of what its users read (see `layout`), so the outputs stay equal bit for bit. A copy
that changes the layout stays: it is a no-op for the values, not for the last bit of a sum that reads it.
"""

from __future__ import annotations

import math

import torch
from torch import fx

from edgecc.ir.ops import bound_arguments
from edgecc.ir.program import Program
from edgecc.simplify.layout import aten, inferred, is_contiguous, is_tensor, same_layout, same_memory, value
from edgecc.simplify.worklist import Missed, Rule

COPIES = (
    aten.alias.default,
    aten.clone.default,
    aten.contiguous.default,
    aten.detach.default,
    aten.detach_.default,
    aten.lift_fresh_copy.default,
    aten.to.dtype,
    aten.to.dtype_layout,
    aten.to.device,
    aten.to.other,
    aten._to_copy.default,
    aten.type_as.default,
    aten.repeat.default,
    aten.reshape.default,
)
"""Operators that keep every element at its index where they keep the shape and the dtype."""

VIEWS = (
    aten.permute.default,
    aten.expand.default,
    aten.slice.Tensor,
    aten.squeeze.dims,
    aten.squeeze.dim,
    aten.squeeze.default,
    aten.unsqueeze.default,
    aten.select.int,
)
"""Operators whose result is the memory of their argument, read with other strides."""

DROPOUTS = (aten.dropout.default, aten.feature_dropout.default, aten.alpha_dropout.default, aten.feature_alpha_dropout.default)

_CHAIN = 8
"""How many views a chain is followed up; longer ones are shortened link by link."""

_EXACTLY_IN = {
    torch.bool: (
        torch.uint8,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
    ),
    torch.uint8: (torch.int16, torch.int32, torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64),
    torch.int8: (torch.int16, torch.int32, torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64),
    torch.int16: (torch.int32, torch.int64, torch.float32, torch.float64),
    torch.int32: (torch.int64, torch.float64),
    torch.float16: (torch.float32, torch.float64),
    torch.bfloat16: (torch.float32, torch.float64),
    torch.float32: (torch.float64,),
}
"""For each dtype those that hold all of its values exactly."""


def remove_dropout(program: Program, node: fx.Node) -> str | None:
    """Dropout that is off. One that is on in eval mode is the model's own wish, and no compiled model has it."""
    arguments = bound_arguments(node)
    if arguments["train"] and arguments["p"] > 0:
        return Missed("dropout is on in eval mode (F.dropout without training=self.training); its output is random")
    program.replace(node, arguments["input"])
    return "dropout is off"


def remove_copy(program: Program, node: fx.Node) -> str | None:
    """A copy, cast or reshape to the layout that is there already."""
    source = node.args[0]
    if not isinstance(source, fx.Node) or not same_layout(value(node), value(source)):
        return None
    program.replace(node, source)
    return "changes nothing"


def remove_view(program: Program, node: fx.Node) -> str | None:
    """A view, or the last of a chain of views, that arrives at a layout it came from."""
    link: object = node
    for _ in range(_CHAIN):
        if not isinstance(link, fx.Node) or not _is_view(link):
            return None
        link = link.args[0]
        if isinstance(link, fx.Node) and same_memory(value(node), value(link)):
            program.replace(node, link)
            return "changes nothing"
    return None


def remove_padding(program: Program, node: fx.Node) -> str | None:
    """Padding by zero elements on every side."""
    arguments = bound_arguments(node)
    if any(not isinstance(p, int) or p != 0 for p in arguments["pad"]) or not same_layout(value(node), value(arguments["self"])):
        return None
    program.replace(node, arguments["self"])
    return "pads by nothing"


def remove_lone_concatenation(program: Program, node: fx.Node) -> str | None:
    tensors = bound_arguments(node)["tensors"]
    if len(tensors) != 1 or not same_layout(value(node), value(tensors[0])):
        return None
    program.replace(node, tensors[0])
    return "concatenates one tensor"


_NEUTRAL: dict[object, int] = {
    aten.mul.Tensor: 1,
    aten.div.Tensor: 1,
    aten.pow.Tensor_Scalar: 1,
    aten.sub.Tensor: 0,
    aten.add.Tensor: 0,
}


def remove_neutral_operand(program: Program, node: fx.Node) -> str | None:
    """x * 1, x / 1, x - 0, x ** 1, and x + 0 of integers: of floats it turns -0.0 into 0.0."""
    neutral = _NEUTRAL[node.target]
    if node.target == aten.add.Tensor and value(node).is_floating_point():
        return None
    x, operand = node.args[0], node.args[1]
    if isinstance(operand, (fx.Node, complex)) or operand != neutral or math.copysign(1, operand) < 0:  # type: ignore[arg-type]
        return None
    if not isinstance(x, fx.Node) or not same_layout(value(node), value(x)):
        return None
    program.replace(node, x)
    return f"the operand {operand} is neutral"


def remove_double_negation(program: Program, node: fx.Node) -> str | None:
    inner = node.args[0]
    if not isinstance(inner, fx.Node) or inner.target != node.target:
        return None
    source = inner.args[0]
    if not isinstance(source, fx.Node) or not same_layout(value(node), value(source)):
        return None
    program.replace(node, source)
    return "negates twice"


def remove_repeated_relu(program: Program, node: fx.Node) -> str | None:
    inner = node.args[0]
    if not isinstance(inner, fx.Node) or inner.target != aten.relu.default:
        return None
    program.replace(node, inner)
    return "is a relu of a relu"


def merge_casts(program: Program, node: fx.Node) -> str | None:
    """A cast of a cast, where the first loses nothing."""
    inner = node.args[0]
    if not isinstance(inner, fx.Node) or inner.target != aten.to.dtype or not is_tensor(inner.args[0]):
        return None
    source = inner.args[0]
    assert isinstance(source, fx.Node)
    if value(inner).dtype not in _EXACTLY_IN.get(value(source).dtype, ()):
        return None
    if value(source).is_floating_point() and not value(node).is_floating_point() and value(node).dtype != torch.bool:
        return None  # a float out of the integer's range becomes what the machine likes, for each width something else
    return _read_instead(program, node, source, "a cast before it loses nothing")


def merge_permutes(program: Program, node: fx.Node) -> str | None:
    inner = node.args[0]
    if not isinstance(inner, fx.Node) or inner.target != aten.permute.default:
        return None
    first, second = inner.args[1], node.args[1]
    order = [first[axis] for axis in second]  # type: ignore[index, union-attr]
    program.replace_args(node, inner.args[0], order)
    return "merged with the permute before it"


def merge_reshapes(program: Program, node: fx.Node) -> str | None:
    """A reshape of anything that only reorders no element: reshape, squeeze, unsqueeze or a contiguous copy."""
    inner = node.args[0]
    merged = (aten.reshape.default, aten.squeeze.dims, aten.unsqueeze.default, aten.contiguous.default, aten.clone.default)
    if not isinstance(inner, fx.Node) or inner.target not in merged or not isinstance(inner.args[0], fx.Node):
        return None
    return _read_instead(program, node, inner.args[0], f"reads through the {inner.target._schema.name.split('::')[1]} before it")


def merge_expands(program: Program, node: fx.Node) -> str | None:
    inner = node.args[0]
    if not isinstance(inner, fx.Node) or inner.target != aten.expand.default:
        return None
    inner_sizes, sizes = list(inner.args[1]), list(node.args[1])  # type: ignore[arg-type]
    lead = len(sizes) - len(inner_sizes)
    merged = [inner_sizes[i - lead] if s == -1 else s for i, s in enumerate(sizes)]
    if not same_layout(inferred(program, aten.expand.default, (inner.args[0], merged)), value(node)):
        return None
    program.replace_args(node, inner.args[0], merged)
    return "merged with the expand before it"


def remove_broadcast(program: Program, node: fx.Node) -> str | None:
    """An expanded operand of an elementwise operator, which broadcasts by itself."""
    for position, operand in enumerate(node.args):
        if isinstance(operand, fx.Node) and operand.target == aten.expand.default:
            args = [*node.args[:position], operand.args[0], *node.args[position + 1 :]]
            if same_layout(inferred(program, node.target, args, node.kwargs), value(node)):  # type: ignore[arg-type]
                node.update_arg(position, operand.args[0])
                program.erase_dead([operand])
                return "broadcasts by itself"
    return None


def _is_view(node: fx.Node) -> bool:
    if node.target == aten.reshape.default:
        return isinstance(node.args[0], fx.Node) and is_contiguous(value(node.args[0]))
    return node.target in VIEWS


def _read_instead(program: Program, node: fx.Node, source: fx.Node, what: str) -> str | None:
    """Let `node` read `source` instead of its first argument, if its value keeps its layout."""
    surely = node.target == aten.reshape.default and is_contiguous(value(source)) and is_contiguous(value(node))
    if not surely and not same_layout(inferred(program, node.target, (source, *node.args[1:]), node.kwargs), value(node)):  # type: ignore[arg-type]
        return None
    old = node.args[0]
    node.update_arg(0, source)
    assert isinstance(old, fx.Node)
    program.erase_dead([old])
    return what


_BROADCASTING = (
    aten.add.Tensor,
    aten.sub.Tensor,
    aten.mul.Tensor,
    aten.div.Tensor,
    aten.where.self,
    aten.maximum.default,
    aten.minimum.default,
)

RULES: dict[object, tuple[Rule, ...]] = {
    **dict.fromkeys(DROPOUTS, (remove_dropout,)),
    **dict.fromkeys(COPIES, (remove_copy,)),
    **dict.fromkeys(VIEWS, (remove_view,)),
    **dict.fromkeys(_BROADCASTING, (remove_broadcast,)),
    aten.reshape.default: (remove_copy, merge_reshapes, remove_view),
    aten.permute.default: (remove_view, merge_permutes),
    aten.expand.default: (remove_view, merge_expands),
    aten.to.dtype: (remove_copy, merge_casts),
    aten.pad.default: (remove_padding,),
    aten.cat.default: (remove_lone_concatenation,),
    aten.mul.Tensor: (remove_neutral_operand, remove_broadcast),
    aten.div.Tensor: (remove_neutral_operand, remove_broadcast),
    aten.sub.Tensor: (remove_neutral_operand, remove_broadcast),
    aten.add.Tensor: (remove_neutral_operand, remove_broadcast),
    aten.pow.Tensor_Scalar: (remove_neutral_operand,),
    aten.neg.default: (remove_double_negation,),
    aten.relu.default: (remove_repeated_relu,),
}
