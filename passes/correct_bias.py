"""correct-bias: take out of each layer the shift of the mean that quantization gives its output.

b' = b + E[W x] - E[W' x'], x' what the layer reads with everything before it quantized and corrected. Nagel et al. 2019, section
4.2, by data (appendix D). Floating point and integers run side by side, node by node over all samples, so that one pass does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import fx

from edgecc.ir import provenance
from edgecc.ir.program import Program
from edgecc.pipeline.base import LOSSY, Pass
from edgecc.pipeline.context import PassContext, Sample
from edgecc.quantization import fake_quant
from edgecc.quantization import operators as ops
from edgecc.quantization.ranges import FloatRun, QuantizedRun, check_finite

aten = torch.ops.aten
#: A shift below this part of the output's largest magnitude is left: it is a twentieth of half a step of 8 bits.
_LEAST = 1e-4
_NAME = "corrected_bias"


@dataclass(frozen=True)
class CorrectBias(Pass):
    """Take the shift of the mean out of quantized linear layers and convolutions, by their biases.

    `samples`: how many are run side by side.
    """

    name = "correct-bias"
    numerics = LOSSY  # the shift that it takes out may be most of the output

    samples: int = 32

    def run(self, program: Program, context: PassContext) -> int:
        layers = [n for n in program.calls(aten.linear.default, *ops.CONVOLUTIONS) if _can_be_corrected(n)]
        chosen = list(islice(context.data, self.samples))
        if not layers or not chosen:
            return 0
        shifts = _Lockstep(program, chosen).shifts(set(layers))
        for node, shift in shifts.items():
            _add(program, node, shift)
            context.applied(node, f"bias moved by up to {float(shift.abs().max()):.3g}")
        return len(shifts)


def _can_be_corrected(node: fx.Node) -> bool:
    """Whether something of a layer is quantized, and its bias is still that of floating point."""
    bias = node.args[2] if len(node.args) > 2 else None
    corrected = isinstance(bias, fx.Node) and _NAME in str(bias.target)
    return not corrected and any(fake_quant.behind(v) is not v for v in ops.operands(node))


class _Lockstep:
    """Runs every sample in floating point and quantized, all at the same node at a time."""

    def __init__(self, program: Program, samples: Sequence[Sample]) -> None:
        self._program = program
        self._runs = [(FloatRun(program, (), _ignore, float_weights=True), QuantizedRun(program, (), _ignore)) for _ in samples]
        for pair, sample in zip(self._runs, samples, strict=True):
            for run in pair:
                run.env = {}
                run.args_iter = iter(sample)

    def shifts(self, layers: set[fx.Node]) -> dict[fx.Node, torch.Tensor]:
        """E[float] - E[quantized] for each channel of the layers [out], each taken out before the next."""
        found: dict[fx.Node, torch.Tensor] = {}
        with torch.no_grad():
            for node in self._program.graph.nodes:
                if node.op == "output":
                    break
                for pair in self._runs:
                    for run in pair:
                        run.env[node] = run.run_node(node)
                if node in layers:
                    shift = self._shift(node)
                    if shift is not None:
                        found[node] = shift
                self._forget(node)
        return found

    def _shift(self, node: fx.Node) -> torch.Tensor | None:
        """The mean difference, None where it is rounding or taking it out would leave the typical vector further off."""
        axis = 1 if node.target in ops.CONVOLUTIONS else -1
        pairs = [tuple(_vectors(run.env[node], axis) for run in pair) for pair in self._runs]
        for wanted, _ in pairs:
            check_finite(node, wanted)
        wanted, given = (torch.cat(side, 1) for side in zip(*pairs, strict=True))
        if not wanted.numel():
            return None
        apart = wanted - given
        shift = apart.mean(1)
        if not float(shift.abs().max()) > _LEAST * float(wanted.abs().max()):
            return None
        if not _typical(apart - shift[:, None], wanted) < _typical(apart, wanted):
            return None
        shape = [1] * self._runs[0][1].env[node].dim()
        shape[axis] = -1
        for _, quantized in self._runs:
            quantized.env[node] = quantized.env[node] + shift.float().view(shape)
        return shift.float()

    def _forget(self, node: fx.Node) -> None:
        for pair in self._runs:
            for run in pair:
                for used in run.user_to_last_uses.get(node, ()):
                    del run.env[used]


def _vectors(value: torch.Tensor, axis: int) -> torch.Tensor:
    """[channels, places] f64."""
    return value.double().movedim(axis, 0).flatten(1)


def _typical(error: torch.Tensor, wanted: torch.Tensor) -> float:
    """Mean of |error|^2 / |wanted|^2 over places, which a few loud ones do not decide."""
    return float((error.square().sum(0) / wanted.square().sum(0).clamp(min=1e-30)).mean())


def _ignore(node: fx.Node, value: torch.Tensor) -> None:
    pass


def _add(program: Program, node: fx.Node, shift: torch.Tensor) -> None:
    """Add to the bias, to one of the layer's own where it is shared or missing."""
    bias = node.args[2] if len(node.args) > 2 else None
    held = program.weight(bias) if isinstance(bias, fx.Node) else None
    stem = provenance.module_path(node) or node.name
    moved = shift if held is None else held + shift.to(held.dtype)
    added = program.add_weight(f"{stem}.{_NAME}", moved, node)
    node.args = (*node.args[:2], added, *node.args[3:])
