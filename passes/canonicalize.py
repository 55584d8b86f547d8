"""canonicalize: one spelling for each operator, and nothing that computes nothing.

Local rules (`edgecc.simplify.identities` and `edgecc.simplify.spellings`) run from a worklist until none applies. Every
rule keeps dtype, shape and strides of what its users read, so the outputs stay equal bit for bit: a copy that
changes the layout stays, because PyTorch's next kernel may sum in another order without it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from edgecc.ir.program import Program
from edgecc.pipeline.base import EXACT, Pass
from edgecc.pipeline.context import PassContext
from edgecc.simplify import identities, spellings
from edgecc.simplify.worklist import Rule, rewrite_to_fixed_point


@dataclass(frozen=True)
class Canonicalize(Pass):
    """Remove no-ops and dead calls, and give every operator its normal spelling and arguments."""

    name = "canonicalize"
    numerics = EXACT

    def run(self, program: Program, context: PassContext) -> int:
        if program.calls(torch.ops.aten.as_strided.default):
            context.note(program.calls(torch.ops.aten.as_strided.default)[0], "as_strided reads memory, not elements: layouts are kept")
            return _remove_dead(program)
        rewritten = rewrite_to_fixed_point(program, _rules(), context.applied, context.missed)
        return rewritten + _remove_dead(program)


def _rules() -> dict[object, tuple[Rule, ...]]:
    """Identities first: what goes away needs no spelling."""
    keys = dict.fromkeys([*identities.RULES, *spellings.RULES])
    return {key: (*identities.RULES.get(key, ()), *spellings.RULES.get(key, ())) for key in keys}


def _remove_dead(program: Program) -> int:
    before = len(program.calls())
    program.erase_dead([n for n in reversed(program.calls()) if not n.users])
    return before - len(program.calls())
