"""activation-aware-scaling: give the weights of loud channels more of the few steps that they are rounded to.

W x = (W s) (x / s): a column that is scaled up loses less to rounding. s_j = mean|x_j|^a, and a is what gives the least error
of the layer's output on the calibration data. Lin et al. 2023 (AWQ), section 3.2, equations 4 and 5; s is rounded to a power of
two, which keeps every bit until the weights are quantized.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import fx

from edgecc.ir.program import Program
from edgecc.pipeline.base import EXACT, Pass
from edgecc.pipeline.context import PassContext
from edgecc.quantization import operators as ops
from edgecc.quantization import weights
from edgecc.quantization.affine import dequantize, quantize
from edgecc.quantization.scaling import Reader, Source, powers_of_two, reader, source
from edgecc.quantization.scheme import WeightFormat, scheme
from edgecc.quantization.statistics import channel_means, second_moments

#: An exponent is taken if it leaves less than this part of the error; then another search starts from there.
_GAIN = 0.98


@dataclass(frozen=True)
class ActivationAwareScaling(Pass):
    """Scale the channels of linear layers' inputs for the least error of weights in few bits.

    `scheme`: how the weights will be quantized. `steps`: exponents tried between 0 and 1."""

    name = "activation-aware-scaling"
    numerics = EXACT

    scheme: str = "int4-weight"
    steps: int = 10

    def run(self, program: Program, context: PassContext) -> int:
        kind = scheme(self.scheme).weight
        groups: dict[fx.Node, list[Reader]] = defaultdict(list)
        for node in program.calls(torch.ops.aten.linear.default):
            x, _ = ops.operands(node)
            found = reader(program, node)
            if found and ops.is_signal(x) and kind and kind.codes == "int":
                groups[x].append(found)
        sources = {x: source(program, x, [r.node for r in readers]) for x, readers in groups.items()}
        for x, found_source in sources.items():
            if isinstance(found_source, str):
                context.missed(groups[x][0].node, f"not scaled: {found_source}")
        chosen = {x: s for x, s in sources.items() if not isinstance(s, str)}
        if not chosen or kind is None:
            return 0
        axes = dict.fromkeys(chosen, -1)
        means = channel_means(program, axes, context.data, context.progress)
        moments = second_moments(program, [groups[x][0].node for x in chosen], context.data, context.progress)
        count = 0
        for x, absorber in chosen.items():
            first = groups[x][0].node
            if x in means and first in moments:
                count += _scale(program, groups[x], absorber, (means[x], moments[first][0]), (kind, self.steps), context)
        return count


def _scale(
    program: Program,
    readers: Sequence[Reader],
    absorber: Source,
    seen: tuple[torch.Tensor, torch.Tensor],
    options: tuple[WeightFormat, int],
    context: PassContext,
) -> bool:
    """Search until no exponent gains; returns whether anything was scaled. `seen`: mean |x| [in], sum of x x^T [in, in]."""
    (mean, moment), (kind, steps) = seen, options
    held = [program.weight(r.weight) for r in readers]
    total = torch.ones_like(mean)
    best = start = sum(_loss(w, total, moment, kind) for w in held)
    while True:
        losses = []
        for step in range(1, steps + 1):
            factor = total * powers_of_two(_normalized((mean / total) ** (step / steps)))
            losses.append((sum(_loss(w, factor, moment, kind) for w in held), factor))
        loss, factor = min(losses, key=lambda pair: pair[0])
        if not loss < _GAIN * best:
            break
        best, total = loss, factor
    if bool((total == 1).all()):
        return False
    absorber.divide(program, total)
    for each in readers:
        each.scale(program, total)
    context.applied(readers[0].node, f"error of its output {best / start:.2f} times that without scaling")
    return True


def _normalized(factor: torch.Tensor) -> torch.Tensor:
    """Factors around 1: over the geometric mean of the least and the largest."""
    positive = factor[factor > 0]
    return factor / (positive.min() * positive.max()).sqrt() if len(positive) else torch.ones_like(factor)


def _loss(weight: torch.Tensor, factor: torch.Tensor, moment: torch.Tensor, kind: WeightFormat) -> float:
    """sum ||(Q(W s) / s - W) x||^2 over the data."""
    fitting = kind if not kind.group or weights.fits(weight, kind.group) else WeightFormat(kind.bits, 0, kind.symmetric)
    scaled = weight * factor
    found = weights.choose(scaled, 0, fitting)
    seen = weights.rows(scaled, 0, fitting.group)
    scale, zero_point = found.scale[:, None], found.zero_point[:, None]
    error = (dequantize(quantize(seen, scale, zero_point, fitting.limits), scale, zero_point).view_as(weight) / factor - weight).double()
    return float((error @ moment * error).sum())
