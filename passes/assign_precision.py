"""assign-precision: give the layers that suffer most from quantization more bits, as few of them as the limits allow.

A layer's sensitivity is the noise that it alone puts into the outputs of the program (Nagel et al. 2021, section 3.6). With an
evaluation and a limit on what may be lost, the least number of layers, the most sensitive per multiply-accumulate first, is kept
in higher precision for which the limit holds. Without one, layers that alone leave less than `min_sqnr_db`. Without data, products
of two activations, which is what attention is made of; norms are in floating point anyway.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import fx

from edgecc.analysis.cost import macs
from edgecc.errors import ContractError
from edgecc.ir.program import Program
from edgecc.pipeline.base import LOSSY, Pass
from edgecc.pipeline.context import PassContext, Sample
from edgecc.quantization import fake_quant, weights
from edgecc.quantization import operators as ops
from edgecc.quantization.scheme import WeightFormat


@dataclass(frozen=True)
class AssignPrecision(Pass):
    """Keep the layers that suffer most in higher precision, as few as the limits allow.

    Higher precision: inputs in floating point with the weight's integers kept, or a weight of 8 bits where only weights are
    quantized. `samples`: how many sensitivities are measured on.
    """

    name = "assign-precision"
    numerics = LOSSY  # what it takes away is noise

    min_sqnr_db: float = 20.0
    samples: int = 4

    def run(self, program: Program, context: PassContext) -> int:
        """Raises ContractError where the limit does not hold even with every layer in higher precision."""
        layers = [n for n in program.calls(*ops.CONTRACTIONS) if _can_be_raised(n)]
        if not layers:
            return 0
        if context.calibration is None and context.evaluate is None:
            return _without_data(program, layers, context)
        limit = _Limit.of(program, context)
        if limit is not None and limit.holds(()):
            context.note(layers[0], "no layer is in higher precision: the limit holds without")
            return 0
        noise = _sensitivities(program, layers, list(islice(context.data, self.samples)), context)
        sizes = program.example_sizes()
        order = sorted(layers, key=lambda n: noise[n] / max(1, macs(n, sizes)), reverse=True)
        context.facts["sensitivity_db"] = {n.name: _decibel(noise[n]) for n in layers}
        chosen = [n for n in order if -_decibel(noise[n]) < self.min_sqnr_db] if limit is None else order[: limit.fewest(order)]
        for node in chosen:
            _raise(program, node)
            context.applied(node, f"in higher precision: alone it leaves {-_decibel(noise[node]):.1f} dB of the outputs")
        return len(chosen)


def _is_fake(value: object) -> bool:
    return fake_quant.behind(value) is not value


def _can_be_raised(node: fx.Node) -> bool:
    x, weight = ops.operands(node)
    return _is_fake(x) or (_is_fake(weight) and _weight_bits(weight) < 8)


def _weight_bits(weight: fx.Node) -> int:
    node = weight if weight.target is fake_quant.WEIGHT else weight.args[0]
    assert isinstance(node, fx.Node)
    low, high = node.args[4:6]
    assert isinstance(low, int) and isinstance(high, int)
    return (high - low).bit_length()


def _without_data(program: Program, layers: Sequence[fx.Node], context: PassContext) -> int:
    chosen = [n for n in layers if n.target in ops.PRODUCTS]
    for node in chosen:
        _raise(program, node)
        context.applied(node, "in floating point: there is no data to measure by, and attention is what suffers")
    if not chosen:
        context.missed(layers[0], "no layer is in higher precision: there is no data to measure by, and no attention")
    return len(chosen)


def _sensitivities(program: Program, layers: Sequence[fx.Node], samples: Sequence[Sample], context: PassContext) -> dict[fx.Node, float]:
    """Noise over signal in the outputs with one layer quantized at a time."""
    bare = program.snapshot()
    for node in list(bare.calls(*ops.CONTRACTIONS)):
        _bypass(node)
    bare.recompile()
    wanted = [bare(*sample) for sample in samples]
    found = {}
    for index, node in enumerate(layers):
        context.progress.detail(f"sensitivity of layer {index + 1} of {len(layers)}")
        alone = program.snapshot()
        for other in list(alone.calls(*ops.CONTRACTIONS)):
            if other.name != node.name:
                _bypass(other)
        _skip_other_activations(alone, node.name)
        alone.recompile()
        found[node] = _noise(wanted, [alone(*sample) for sample in samples])
    return found


def _bypass(node: fx.Node) -> None:
    node.args = tuple(fake_quant.behind(a) for a in node.args)


def _skip_other_activations(program: Program, kept: str) -> None:
    for found in fake_quant.activations(program):
        for user in list(found.node.users):
            if user.name != kept:
                user.replace_input_with(found.node, found.x)


def _noise(wanted: Sequence[Sequence[torch.Tensor]], given: Sequence[Sequence[torch.Tensor]]) -> float:
    """The largest ratio of noise to signal over the outputs."""
    worst = 0.0
    for k in range(len(wanted[0])):
        if not wanted[0][k].is_floating_point():
            continue
        signal = sum(float(w[k].double().square().sum()) for w in wanted)
        noise = sum(float((w[k].double() - g[k].double()).square().sum()) for w, g in zip(wanted, given, strict=True))
        worst = max(worst, noise / signal if signal else 0.0)
    return worst


def _decibel(noise: float) -> float:
    return round(10 * math.log10(noise), 2) if noise > 0 else -300.0


@dataclass(frozen=True)
class _Limit:
    """The evaluation of a program must be at least `least`."""

    program: Program
    context: PassContext
    evaluate: Callable[[Program], float]
    least: float

    @classmethod
    def of(cls, program: Program, context: PassContext) -> _Limit | None:
        """By what the program evaluates to in floating point; None where nobody said what may be lost."""
        if context.evaluate is None or context.max_drop is None:
            return None
        bare = program.snapshot()
        for node in list(bare.calls(*ops.CONTRACTIONS)):
            _bypass(node)
        _skip_other_activations(bare, "")
        bare.recompile()
        return cls(program, context, context.evaluate, context.evaluate(bare) - context.max_drop)

    def holds(self, raised: Sequence[fx.Node]) -> bool:
        self.context.progress.detail(f"evaluate with {len(raised)} layers in higher precision")
        tried, names = self.program.snapshot(), {n.name for n in raised}
        for node in [n for n in tried.calls(*ops.CONTRACTIONS) if n.name in names]:
            _raise(tried, node)
        tried.recompile()
        return self.evaluate(tried) >= self.least

    def fewest(self, order: Sequence[fx.Node]) -> int:
        """The least number of layers, from the front, whose precision must be raised, at least one: found by halving.

        Raises ContractError where the limit does not hold with all of them.
        """
        if not self.holds(order):
            raise ContractError(
                f"more than {self.context.max_drop:g} of the evaluation is lost even with every layer in higher precision",
                hint="a larger --max-drop, more calibration data, or another --quant",
            )
        low, high = 1, len(order)
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self.holds(order[:middle]) else (middle + 1, high)
        return high


def _raise(program: Program, node: fx.Node) -> None:
    """Let the layer read its activations in floating point, or a weight of 8 bits where it does already."""
    x, weight = ops.operands(node)
    if _is_fake(x) or node.target in ops.PRODUCTS:
        second = fake_quant.behind(weight) if node.target in ops.PRODUCTS else weight
        ops.set_operands(program, node, fake_quant.behind(x), second)
        program.erase_dead([n for n in (x, weight) if isinstance(n, fx.Node)])
        return
    stored = fake_quant.behind(weight)
    kind = WeightFormat()
    axis = ops.channel_axis(node)
    raised = fake_quant.insert_weight(program, stored, node, axis, kind, weights.choose(program.weight(stored), axis, kind))
    ops.set_operands(program, node, x, raised)
    program.erase_dead([weight])
