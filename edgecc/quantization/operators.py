"""Operator classes: what quantization does with each kind of call, in the spellings that `canonicalize` leaves."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from edgecc.ir.ops import bound_arguments
from edgecc.ir.program import Program

aten = torch.ops.aten

CONVOLUTIONS = frozenset(
    {aten.conv1d.default, aten.conv2d.default, aten.conv3d.default, aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding}
)
TRANSPOSED = frozenset({aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input})
LINEARS = frozenset({aten.linear.default, aten.addmm.default})
PRODUCTS = frozenset({aten.matmul.default, aten.mm.default, aten.bmm.default})
#: Calls that multiply by a weight, or two activations.
CONTRACTIONS = CONVOLUTIONS | TRANSPOSED | LINEARS | PRODUCTS
RECURRENCES = frozenset({aten.gru.input, aten.lstm.input})
ATTENTION = aten.scaled_dot_product_attention.default

CLAMPS = frozenset({aten.relu.default, aten.clamp.default, aten.hardtanh.default, aten.relu6.default})
#: Calls that move numbers or choose among them: what goes in and what comes out have one scale.
MOVES = frozenset(
    {aten.reshape.default, aten.view.default, aten.permute.default, aten.transpose.int, aten.slice.Tensor, aten.select.int}
    | {aten.squeeze.dim, aten.squeeze.dims, aten.unsqueeze.default, aten.flatten.using_ints, aten.expand.default}
    | {aten.clone.default, aten.contiguous.default, aten.max_pool2d.default, aten.max_pool1d.default, aten.pad.default}
)
JOINS = frozenset({aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor})
POOLS = frozenset(
    {aten.avg_pool1d.default, aten.avg_pool2d.default, aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default} | {aten.mean.dim}
)
RESIZES = frozenset({aten.upsample_bilinear2d.vec, aten.upsample_bilinear2d.default})
CONCATENATIONS = frozenset({aten.cat.default})
#: Functions of one number, which a table of 256 entries holds.
TABLES = frozenset(
    {aten.gelu.default, aten.silu.default, aten.sigmoid.default, aten.tanh.default, aten.hardswish.default}
    | {aten.hardsigmoid.default, aten.elu.default, aten.leaky_relu.default, aten.selu.default, aten.softplus.default}
    | {aten.mish.default, aten.exp.default, aten.erf.default}
)
FOLLOWERS = CLAMPS | MOVES | JOINS | POOLS | RESIZES | CONCATENATIONS | TABLES

#: Position of the operand that is summed over, of the weight, and the weight's axes of output channels and of what is summed.
_OPERANDS: dict[Any, tuple[int, int]] = {
    **dict.fromkeys(CONVOLUTIONS | TRANSPOSED | {aten.linear.default} | PRODUCTS, (0, 1)),
    aten.addmm.default: (1, 2),
}


def operands(node: fx.Node) -> tuple[Any, Any]:
    """The activation and the weight of a contraction; of two activations, both."""
    x, weight = _OPERANDS[node.target]
    return node.args[x], node.args[weight]


def set_operands(program: Program, node: fx.Node, x: Any, weight: Any) -> None:
    """Let a contraction read others in their place."""
    first, second = _OPERANDS[node.target]
    args = list(node.args)
    args[first], args[second] = x, weight
    node.args = tuple(args)


def channel_axis(node: fx.Node) -> int:
    """The axis of a contraction's weight that its output channels lie on."""
    if node.target in TRANSPOSED:
        return 1
    if node.target in CONVOLUTIONS or node.target is aten.linear.default:
        return 0
    _, weight = operands(node)
    return int(weight.meta["val"].dim()) - 1


def has_weight(program: Program, node: fx.Node) -> bool:
    """Whether a contraction multiplies by a floating-point weight of the program, of at least two axes."""
    _, weight = operands(node)
    if not program.is_weight(weight):
        return False
    found = weight.meta["val"]
    return bool(found.is_floating_point() and found.dim() >= 2 and found.numel())


def is_signal(value: object) -> bool:
    """Whether a value is a tensor of floating-point numbers that depends on the inputs."""
    if not isinstance(value, fx.Node) or value.op == "get_attr":
        return False
    found = value.meta.get("val")
    return isinstance(found, torch.Tensor) and found.is_floating_point()


def is_zero_pad(node: fx.Node) -> bool:
    bound = bound_arguments(node)
    return bound["mode"] == "constant" and bound["value"] in (None, 0, 0.0)
