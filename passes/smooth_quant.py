"""smooth-quant: take the outliers of some channels out of an activation and give them to the weights that read it.

W x = (W s) (x / s) with s_j = max|x_j|^a / max|W_j|^(1 - a). Xiao et al. 2023, section 4, equations 3 and 4; s is rounded to a
power of two, which keeps every bit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import fx

from edgecc.errors import UsageError
from edgecc.ir.program import Program
from edgecc.pipeline.base import EXACT, Pass
from edgecc.pipeline.context import PassContext
from edgecc.quantization import operators as ops
from edgecc.quantization.scaling import Reader, multiply, powers_of_two, reader, source
from edgecc.quantization.statistics import channel_peaks


@dataclass(frozen=True)
class SmoothQuant(Pass):
    """Even out the channels that linear layers read, at the cost of their weights.

    `alpha`: 0 leaves activations as they are, 1 makes their channels even. `insert`: whether a multiplication is inserted
    where nothing before the layer can be divided, such as a norm that a residual connection reads too.
    """

    name = "smooth-quant"
    numerics = EXACT

    alpha: float = 0.5
    insert: bool = False

    def run(self, program: Program, context: PassContext) -> int:
        """Raises UsageError for an alpha out of range and for activations that are not finite."""
        if not 0 <= self.alpha <= 1:
            raise UsageError(f"alpha is {self.alpha:g}, want 0 to 1")
        groups: dict[fx.Node, list[Reader]] = defaultdict(list)
        for node in program.calls(torch.ops.aten.linear.default):
            x, _ = ops.operands(node)
            found = reader(program, node)
            if found and ops.is_signal(x):
                groups[x].append(found)
        if not groups:
            return 0
        peaks = channel_peaks(program, dict.fromkeys(groups, -1), context.data, context.progress)
        return sum(_smooth(program, x, readers, peaks[x], self, context) for x, readers in groups.items() if x in peaks)


def _smooth(
    program: Program, x: fx.Node, readers: Sequence[Reader], peak: torch.Tensor, options: SmoothQuant, context: PassContext
) -> bool:
    weights = torch.stack([r.peaks(program) for r in readers]).amax(0)
    factor = powers_of_two(peak.double() ** options.alpha / weights.double() ** (1 - options.alpha))
    if bool((factor == 1).all()):
        return False
    nodes = [r.node for r in readers]
    found = source(program, x, nodes)
    if isinstance(found, str) and not options.insert:
        context.missed(nodes[0], f"not smoothed: {found}")
        return False
    if isinstance(found, str):
        multiply(program, x, nodes, factor)
    else:
        found.divide(program, factor)
    for each in readers:
        each.scale(program, factor)
    context.applied(nodes[0], f"factors of its input channels from {float(factor.min()):g} to {float(factor.max()):g}")
    return True
