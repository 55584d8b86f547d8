"""Trainee: a copy of a program whose weights and scales have gradients, and the way back into the program.

Rounding has the gradient of the identity inside the range and none outside (straight-through, Bengio et al. 2013, section 4;
Jacob et al. 2018, section 3). That is what ATen's fake_quantize operators do; scales get one by their learnable forms. ATen takes
what rounds to a limit for inside; the paper on scales takes what is beyond it by less than half a step for outside already.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import fx

from edgecc.errors import UsageError
from edgecc.ir.fake import evaluate
from edgecc.ir.ops import bound_arguments
from edgecc.ir.program import Program
from edgecc.ir.quantized import CHOOSE, QUANTIZE, is_dequantize, is_quantize
from edgecc.quantization import fake_quant
from edgecc.quantization import operators as ops

aten = torch.ops.aten
_TENSOR = aten._fake_quantize_learnable_per_tensor_affine.default
_CHANNEL = aten._fake_quantize_learnable_per_channel_affine.default
#: Arguments that hold what a model learns, by operator.
_LEARNED: dict[object, tuple[str, ...]] = {
    **dict.fromkeys(ops.CONVOLUTIONS | ops.TRANSPOSED | {aten.linear.default}, ("weight", "bias")),
    aten.addmm.default: ("self", "mat2"),
    **dict.fromkeys(ops.PRODUCTS, ("other", "mat2")),
    aten.embedding.default: ("weight",),
    aten.layer_norm.default: ("weight", "bias"),
    aten.rms_norm.default: ("weight",),
    aten.group_norm.default: ("weight", "bias"),
    aten.batch_norm.default: ("weight", "bias"),
}
#: A learned scale stays above this part of what it was: at 0 its range is empty, and no gradient brings it back.
_LEAST = 1 / 64


@dataclass(frozen=True)
class Trainee:
    """`weights` and `scales` are the parameters of `program` that are trained, by name; `least` is the bound of each scale."""

    program: Program
    weights: dict[str, torch.Tensor]
    scales: dict[str, torch.Tensor]
    least: dict[str, torch.Tensor]

    @property
    def parameters(self) -> dict[str, torch.Tensor]:
        return {**self.weights, **self.scales}

    def clamp_scales(self) -> None:
        with torch.no_grad():
            for name, scale in self.scales.items():
                torch.maximum(scale, self.least[name], out=scale)

    def write_back(self, program: Program) -> int:
        """Give the program new tensors for those that training changed; how many. Tensors that others share are left as they are."""
        nodes = {str(n.target): n for n in program.graph.nodes if n.op == "get_attr"}
        changed = 0
        for name, tensor in self.parameters.items():
            if not torch.equal(tensor.detach(), program.weight(nodes[name])):
                program.set_weight(nodes[name], tensor.detach().clone())
                changed += 1
        return changed


def trainee(program: Program, *, learn_scales: bool) -> Trainee:
    """A copy of the program to train. Raises UsageError where it has no weight that can be trained."""
    copy = program.clone()
    fakes: list[fake_quant.Activation | fake_quant.Weight] = [*fake_quant.activations(copy), *fake_quant.weights(copy)]
    fixed = {str(n.target) for found in fakes for n in (found.scale, found.zero_point)}
    weights = {name: copy.stored(name) for name in _learned(copy) if name not in fixed}
    if not weights:
        raise UsageError(
            "the program has no weight that can be trained: those of linear layers, convolutions, embeddings and norms are",
            hint="codes such as nf4 are fixed; --quant int8 or w4a8 keep the weights until finalize-quant",
        )
    scales = _learnable(copy) if learn_scales else {}
    _straight_through(copy)
    for name in copy.weights():
        copy.stored(name).requires_grad_(name in weights or name in scales)
    copy.recompile()
    return Trainee(copy, weights, scales, {name: s.detach() * _LEAST for name, s in scales.items()})


def _learned(program: Program) -> list[str]:
    found: dict[str, None] = {}
    for node in [n for n in program.calls() if n.target in _LEARNED]:
        if node.target is aten.embedding.default and not _reads_input(node):
            continue  # the numbers that 4-bit codes stand for
        bound = bound_arguments(node)
        for name in _LEARNED[node.target]:
            source = fake_quant.behind(bound.get(name))
            if isinstance(source, fx.Node) and program.is_weight(source) and program.weight(source).is_floating_point():
                found[str(source.target)] = None
    return list(found)


def _reads_input(node: fx.Node) -> bool:
    pending, seen = [node], {node}
    while pending:
        current = pending.pop()
        if current.op == "placeholder":
            return True
        new = [n for n in current.all_input_nodes if n not in seen]
        seen.update(new)
        pending.extend(new)
    return False


def _learnable(program: Program) -> dict[str, torch.Tensor]:
    """Give every scale a gradient, times 1 / sqrt(n * q_max) for the n numbers that share it. Esser et al. 2020, section 2.2."""
    scales: dict[str, torch.Tensor] = {}
    sizes = program.example_sizes()
    for found in fake_quant.activations(program):
        features = math.prod(evaluate(size, sizes) for size in found.x.meta["val"].shape[1:])
        factor = 1 / math.sqrt(max(features, 1) * found.limits[1])
        found.node.target, found.node.args = _TENSOR, (found.x, found.scale, _float(program, found), *found.limits, factor)
        scales[found.key] = program.stored(found.key)
    for weight in fake_quant.weights(program):
        held = program.stored(str(weight.scale.target))
        factor = 1 / math.sqrt(program.weight(weight.stored).numel() / held.numel() * max(weight.limits))
        source = weight.node.args[0]
        weight.node.target = _CHANNEL
        weight.node.args = source, weight.scale, _float(program, weight), weight.axis, *weight.limits, factor
        scales[str(weight.scale.target)] = held
    return scales


def _float(program: Program, found: fake_quant.Activation | fake_quant.Weight) -> fx.Node:
    """The zero point as the learnable operators want it; it is not trained, so that 0 stays an integer."""
    return program.add_weight(f"{found.zero_point.target}_float", program.weight(found.zero_point).float(), found.node)


class _Straight(torch.autograd.Function):
    """What `rounded` is, with the gradient of x."""

    @staticmethod
    def forward(ctx: object, x: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
        return rounded.clone()

    @staticmethod
    def backward(ctx: object, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0], None


def _straight(x: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
    result: torch.Tensor = _Straight.apply(x, rounded)  # type: ignore[no-untyped-call]
    return result


def _straight_through(program: Program) -> None:
    """Let gradients pass the quantize and dequantize calls of rows that are rounded while the program runs."""
    for node in program.calls():
        q = node.args[0] if is_dequantize(node) else None
        if not isinstance(q, fx.Node) or not is_quantize(q) or not isinstance(x := q.args[0], fx.Node):
            continue
        with program.graph.inserting_after(program.inputs()[-1] if x.op == "placeholder" else x):
            apart = program.graph.call_function(aten.detach.default, (x,))
        with program.graph.inserting_after(node):
            new = program.graph.call_function(_straight, (x, node))
        apart.meta, new.meta = dict(x.meta), dict(node.meta)
        q.replace_input_with(x, apart)
        for user in [u for u in x.users if u.target in QUANTIZE | CHOOSE]:
            user.replace_input_with(x, apart)
        for user in [u for u in node.users if u is not new]:
            user.replace_input_with(node, new)


def in_float(program: Program) -> Program:
    """A copy that shares the weights and rounds nothing: neither at fake-quant nodes nor by scales that are computed."""
    plain = program.snapshot()
    for node in [n for n in plain.calls() if is_dequantize(n)]:
        q = node.args[0]
        if isinstance(q, fx.Node) and is_quantize(q) and isinstance(q.args[0], fx.Node):
            node.replace_all_uses_with(q.args[0])
            plain.erase_dead([node])
    for node in plain.calls(fake_quant.ACTIVATION, fake_quant.WEIGHT):
        source = node.args[0]
        assert isinstance(source, fx.Node)
        node.replace_all_uses_with(source)
        plain.graph.erase_node(node)
    plain.recompile()
    return plain
