"""Scaling: move a factor for each channel from a value into the weights that read it, and its inverse into what makes the value.

W x = (W s) (x / s), with s a power of two for each channel: products and sums are then scaled exactly, so the program computes
the same bits before anything is quantized (barring numbers near the ends of float32's exponents).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import fx

from edgecc.ir.ops import bound_arguments
from edgecc.ir.program import Program
from edgecc.quantization import operators as ops
from edgecc.quantization.fake_quant import call_after

aten = torch.ops.aten
#: Functions f with f(a x) = a f(x) for a > 0 of each number, and of each channel on axis 1.
_OF_NUMBERS = frozenset({aten.relu.default, aten.leaky_relu.default})
_OF_CHANNELS = frozenset(
    {aten.max_pool1d.default, aten.max_pool2d.default, aten.avg_pool1d.default, aten.avg_pool2d.default}
    | {aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default}
)
_NORMS = frozenset({aten.layer_norm.default, aten.rms_norm.default})
_CONVOLUTIONS = ops.CONVOLUTIONS


@dataclass(frozen=True)
class Reader:
    """A linear layer or convolution whose weight takes factors along the channels of its input."""

    node: fx.Node
    weight: fx.Node

    def peaks(self, program: Program) -> torch.Tensor:
        """max|w| for each input channel [in] f32."""
        return _by_input(self.node, program.weight(self.weight)).abs().flatten(1).amax(1)

    def scale(self, program: Program, factor: torch.Tensor) -> None:
        """Multiply each input channel's numbers by its factor [in]."""
        weight = program.weight(self.weight)
        if self.node.target in _CONVOLUTIONS and _groups(self.node) > 1:
            shape = [-1, *[1] * (weight.dim() - 1)]  # depthwise: each filter reads the channel of its number
        else:
            shape = [1, -1, *[1] * (weight.dim() - 2)]
        program.set_weight(self.weight, weight * factor.to(weight.dtype).view(shape))


def reader(program: Program, node: fx.Node) -> Reader | None:
    """The node as a reader, None where its weight is computed, shared or cannot be scaled by input channel."""
    if node.target not in _CONVOLUTIONS and node.target is not aten.linear.default:
        return None
    _, weight = ops.operands(node)
    if not ops.has_weight(program, node) or not is_own(program, weight):
        return None
    if node.target in _CONVOLUTIONS and _groups(node) > 1 and not is_depthwise(node):
        return None
    return Reader(node, weight)


def is_own(program: Program, weight: fx.Node) -> bool:
    """Whether one call alone reads a stored tensor."""
    twins = [n for n in program.graph.nodes if n.op == "get_attr" and n.target == weight.target]
    return sum(len(n.users) for n in twins) == 1


def is_depthwise(node: fx.Node) -> bool:
    """Whether a convolution has one filter for each channel."""
    _, weight = ops.operands(node)
    return bool(_groups(node) == weight.meta["val"].shape[0] and weight.meta["val"].shape[1] == 1)


def _groups(node: fx.Node) -> int:
    return int(bound_arguments(node).get("groups", 1))


def _by_input(node: fx.Node, weight: torch.Tensor) -> torch.Tensor:
    """The weight with the channels of the input first: [out, in, ...] -> [in, out, ...]; as it is for a depthwise convolution."""
    return weight if node.target in _CONVOLUTIONS and _groups(node) > 1 else weight.transpose(0, 1)


def powers_of_two(factor: torch.Tensor, limit: int = 12) -> torch.Tensor:
    """The nearest power of two, between 2^-limit and 2^limit, of positive factors; 1 where one is 0, infinite or NaN."""
    exponent = torch.log2(factor.double())
    return torch.exp2(torch.where(exponent.isfinite(), exponent, torch.zeros_like(exponent)).round().clamp(-limit, limit)).float()


@dataclass(frozen=True)
class Source:
    """What makes a value and can divide each of its channels: weights whose first axis are the channels."""

    weights: tuple[fx.Node, ...]

    def divide(self, program: Program, factor: torch.Tensor) -> None:
        for node in self.weights:
            held = program.weight(node)
            program.set_weight(node, held / factor.to(held.dtype).view(-1, *[1] * (held.dim() - 1)))


def source(program: Program, value: fx.Node, readers: Sequence[fx.Node]) -> Source | str:
    """What takes the inverse factors of a value that only `readers` read, or why nothing does.

    Channels lie on axis 1 of what convolutions read, and on the last axis of what linear layers do; a mean over the spatial
    axes leads from one to the other.
    """
    node, users = value, set(readers)
    last = any(n.target is aten.linear.default for n in readers)
    while True:
        if set(node.users) - users:
            others = ", ".join(sorted(f"%{n.name}" for n in set(node.users) - users))
            return f"%{node.name} is also read by {others}"
        if last and node.target is aten.mean.dim and _keeps_channels(node):
            inner, last = node.args[0], False
        elif node.target in _OF_NUMBERS or (node.target in _OF_CHANNELS and not last):
            inner = node.args[0]
        elif node.target is aten.mul.Tensor and last and (factor := _linear_factor(node)) is not None:
            inner = factor
        else:
            return _weights_of(program, node, last=last)
        assert isinstance(inner, fx.Node)
        users, node = {node}, inner


def _keeps_channels(node: fx.Node) -> bool:
    """Whether a mean takes [n, c, ...] to [n, c]."""
    axes, inner = node.args[1], node.args[0]
    assert isinstance(inner, fx.Node)
    rank = inner.meta["val"].dim()
    gone = {a % rank for a in axes if isinstance(a, int)} if isinstance(axes, (list, tuple)) else set()
    return gone == set(range(2, rank)) and node.meta["val"].dim() == 2


def _linear_factor(node: fx.Node) -> fx.Node | None:
    """The operand of a product that a linear layer makes: half of a gated unit."""
    shape = node.meta["val"].shape
    for operand in node.args[:2]:
        if isinstance(operand, fx.Node) and operand.target is aten.linear.default and operand.meta["val"].shape == shape:
            return operand
    return None


def _weights_of(program: Program, node: fx.Node, *, last: bool) -> Source | str:
    if node.target in _NORMS and last:
        bound = bound_arguments(node)
        parts = [bound["weight"], *([bound["bias"]] if bound.get("bias") is not None else [])]
        if len(bound["normalized_shape"]) != 1:
            return f"%{node.name} normalizes over several axes"
    elif (node.target is aten.linear.default) if last else (node.target in _CONVOLUTIONS):
        parts = [node.args[1], *(a for a in node.args[2:3] if a is not None)]
    else:
        return f"%{node.name} has no weights to divide"
    if not all(isinstance(p, fx.Node) and program.is_weight(p) and is_own(program, p) for p in parts):
        return f"the weights of %{node.name} are shared or computed"
    return Source(tuple(p for p in parts if isinstance(p, fx.Node)))


def multiply(program: Program, value: fx.Node, readers: Sequence[fx.Node], factor: torch.Tensor) -> None:
    """Let `readers` read value / factor by a call of its own, where nothing before can take it. Channels lie on the last axis."""
    scale = program.add_weight(f"{value.name}_smoothing", 1 / factor, value)
    thin = call_after(program, value, aten.mul.Tensor, value, scale)
    for node in readers:
        node.replace_input_with(value, thin)
