"""decompose: open the operators that no target wants whole, and bring matrix products to linear and matmul.

The rules are listed in `edgecc.simplify.openings` and `edgecc.simplify.contractions`. What targets and patterns do want
whole stays: linear, convolutions, norms, activations, softmax, pooling, scaled_dot_product_attention, lstm and gru.
Most openings are bit equal; a product over a transposed weight may sum in another order, hence REORDERED.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgecc.ir.program import Program
from edgecc.pipeline.base import REORDERED, Pass
from edgecc.pipeline.context import PassContext
from edgecc.simplify import contractions, openings
from edgecc.simplify.worklist import rewrite_to_fixed_point


@dataclass(frozen=True)
class Decompose(Pass):
    """Open einsum, addmm, list-valued, shuffling and rare operators into plain ones."""

    name = "decompose"
    numerics = REORDERED

    def run(self, program: Program, context: PassContext) -> int:
        rules = {**openings.RULES, **contractions.RULES}
        return rewrite_to_fixed_point(program, rules, context.applied, context.missed)
