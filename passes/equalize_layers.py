"""equalize-layers: even out the ranges of the channels between two layers, so that one scale serves them all.

relu(W1 x + b1) has channel i divided by s_i when row i of W1 and b1 are, and column i of W2 takes s_i. With
s_i = sqrt(max|W1_i| / max|W2_i|) both have the same range. Nagel et al. 2019, section 4.1, equations 7 to 11; s is rounded to a
power of two, which keeps every bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx

from edgecc.ir.program import Program
from edgecc.pipeline.base import EXACT, Pass
from edgecc.pipeline.context import PassContext
from edgecc.quantization import operators as ops
from edgecc.quantization.scaling import Reader, Source, powers_of_two, reader, source

#: Rounds over all pairs; each layer is in two of them, so that a long chain needs a few.
_ROUNDS = 20


@dataclass(frozen=True)
class EqualizeLayers(Pass):
    """Scale the channels between convolutions or linear layers with nothing but ReLU, leaky ReLU or pooling in between."""

    name = "equalize-layers"
    numerics = EXACT

    def run(self, program: Program, context: PassContext) -> int:
        pairs = []
        for node in program.calls(*ops.CONVOLUTIONS, torch.ops.aten.linear.default):
            found = _pair(program, node, context)
            if found:
                pairs.append((node, *found))
        changed: set[fx.Node] = set()
        for _ in range(_ROUNDS):
            moved = [node for node, before, after in pairs if _equalize(program, before, after)]
            changed.update(moved)
            if not moved:
                break
        for node in changed:
            context.applied(node, "ranges of its input channels evened out with the layer before it")
        return len(changed)


def _pair(program: Program, node: fx.Node, context: PassContext) -> tuple[Source, Reader] | None:
    after = reader(program, node)
    x, _ = ops.operands(node)
    if after is None or not ops.is_signal(x) or x.op == "placeholder":
        return None
    before = source(program, x, [node])
    if isinstance(before, str):
        context.missed(node, f"not equalized: {before}")
        return None
    first = program.weight(before.weights[0])
    if first.dim() < 2 or len(first) != len(after.peaks(program)):
        context.missed(node, "not equalized: what is before it is a norm, or its channels lie elsewhere")
        return None
    return before, after


def _equalize(program: Program, before: Source, after: Reader) -> bool:
    ours, theirs = program.weight(before.weights[0]).abs().flatten(1).amax(1), after.peaks(program)
    factor = powers_of_two((ours / theirs).sqrt())
    if bool((factor == 1).all()):
        return False
    before.divide(program, factor)
    after.scale(program, factor)
    return True
