"""Fake-quant nodes: ATen's own, with scale and zero point as weights of the program, so that they are saved and can be trained.

An activation is `fake_quantize_per_tensor_affine(x, scale [1], zero_point [1], low, high)`; a weight
`fake_quantize_per_channel_affine(w, scale, zero_point, axis, low, high)`, between two reshapes where groups share a scale. A
scale below zero is provisional: x / s and q * s cancel its sign, so the program runs, and `finalize-quant` refuses it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from edgecc.ir import provenance
from edgecc.ir.ops import short_name
from edgecc.ir.program import Program
from edgecc.quantization.scheme import ActivationFormat, WeightFormat
from edgecc.quantization.weights import Ranges

aten = torch.ops.aten
ACTIVATION = aten.fake_quantize_per_tensor_affine.tensor_qparams
WEIGHT = aten.fake_quantize_per_channel_affine.default


@dataclass(frozen=True)
class Activation:
    """A fake-quant node of an activation: `limits` are its least and largest integer."""

    node: fx.Node
    x: fx.Node
    scale: fx.Node
    zero_point: fx.Node
    limits: tuple[int, int]

    @property
    def key(self) -> str:
        """The name of the stored scale, which tied nodes share."""
        return str(self.scale.target)


@dataclass(frozen=True)
class Weight:
    """A fake-quantized weight: `node` is the fake-quant call, `out` what its readers read, `stored` the weight itself."""

    node: fx.Node
    out: fx.Node
    stored: fx.Node
    scale: fx.Node
    zero_point: fx.Node
    axis: int
    limits: tuple[int, int]
    group: int

    @property
    def kind(self) -> WeightFormat:
        low, high = self.limits
        return WeightFormat((high - low).bit_length(), self.group, symmetric=low < 0)


def activations(program: Program) -> list[Activation]:
    """Those of a program, in graph order."""
    return [_activation(node) for node in program.calls(ACTIVATION)]


def _activation(node: fx.Node) -> Activation:
    x, scale, zero_point, low, high = node.args
    assert isinstance(x, fx.Node) and isinstance(scale, fx.Node) and isinstance(zero_point, fx.Node)
    assert isinstance(low, int) and isinstance(high, int)
    return Activation(node, x, scale, zero_point, (low, high))


def weights(program: Program) -> list[Weight]:
    """Those of a program, in graph order."""
    return [_weight(program, node) for node in program.calls(WEIGHT)]


def _weight(program: Program, node: fx.Node) -> Weight:
    source, scale, zero_point, axis, low, high = node.args
    assert isinstance(source, fx.Node) and isinstance(scale, fx.Node) and isinstance(zero_point, fx.Node)
    assert isinstance(axis, int) and isinstance(low, int) and isinstance(high, int)
    if program.is_weight(source):
        return Weight(node, node, source, scale, zero_point, axis, (low, high), 0)
    stored = source.args[0]
    assert isinstance(stored, fx.Node)
    return Weight(node, next(iter(node.users)), stored, scale, zero_point, 0, (low, high), int(node.meta["val"].shape[1]))


def insert_activation(program: Program, x: fx.Node, kind: ActivationFormat, peak: float, like: fx.Node | None) -> fx.Node:
    """Fake-quantize a value with a provisional scale, or with that of the node `like`; its readers stay."""
    half = 1 << (kind.bits - 1)
    limits = -half, half - 1
    if like is not None:
        return call_after(program, x, ACTIVATION, x, *like.args[1:3], *limits)
    stem = ".".join(part for part in (provenance.module_path(x), x.name) if part)
    scale = program.add_weight(f"{stem}_scale", torch.tensor([-max(peak, 1e-6) / (half - 1)]), x)
    zero_point = program.add_weight(f"{stem}_zero_point", torch.zeros(1, dtype=torch.int32), x)
    return call_after(program, x, ACTIVATION, x, scale, zero_point, *limits)


def insert_weight(program: Program, weight: fx.Node, before: fx.Node, axis: int, kind: WeightFormat, found: Ranges) -> fx.Node:
    """Fake-quantize a weight before the call that first reads it; returns what its readers shall read."""
    scale = program.add_weight(f"{weight.target}_scale", found.scale, weight)
    zero_point = program.add_weight(f"{weight.target}_zero_point", found.zero_point, weight)
    if not kind.group:
        return _call_for(program, before, weight, WEIGHT, weight, scale, zero_point, axis, *kind.limits)
    shape = list(program.weight(weight).shape)
    grouped = _call_for(program, before, weight, aten.reshape.default, weight, [-1, kind.group])
    fake = _call_for(program, before, weight, WEIGHT, grouped, scale, zero_point, 0, *kind.limits)
    return _call_for(program, before, weight, aten.reshape.default, fake, shape)


def is_fake(node: object) -> bool:
    return isinstance(node, fx.Node) and node.target in (ACTIVATION, WEIGHT)


def behind(node: Any) -> Any:
    """What a value was before it was fake-quantized; the value itself where it was not."""
    if not isinstance(node, fx.Node):
        return node
    if node.target in (ACTIVATION, WEIGHT):
        return behind(node.args[0])
    if node.target is aten.reshape.default and isinstance(node.args[0], fx.Node):
        inner = node.args[0]
        if inner.target is WEIGHT or (inner.op == "get_attr" and any(u.target is WEIGHT for u in node.users)):
            return behind(inner)
    return node


def call_after(program: Program, x: fx.Node, target: Callable[..., Any], *args: Any) -> fx.Node:
    """Insert a call behind a value, with the value's provenance; behind all inputs where it is one."""
    place = program.inputs()[-1] if x.op == "placeholder" else x
    with program.graph.inserting_after(place):
        new = program.graph.create_node("call_function", target, args, name=short_name(target))
    program.infer(new)
    provenance.inherit(new, [x])
    return new


def _call_for(program: Program, before: fx.Node, like: fx.Node, target: Callable[..., Any], *args: Any) -> fx.Node:
    with program.graph.inserting_before(before):
        new = program.graph.create_node("call_function", target, args, name=short_name(target))
    program.infer(new)
    provenance.inherit(new, [like, before])
    return new
