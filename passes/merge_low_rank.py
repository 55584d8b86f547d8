"""merge-low-rank: two layers in a row, with nothing between them, become one of the product of their weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx

from edgecc.ir.ops import bound_arguments
from edgecc.ir.program import Program
from edgecc.pipeline.base import Pass
from edgecc.pipeline.context import PassContext

linear = torch.ops.aten.linear.default


@dataclass(frozen=True)
class MergeLowRank(Pass):
    """`U (V x + c) + b` to `(U V) x + (U c + b)`, for runtimes that have one matrix where a model has a factorized one.

    The weight grows from r (out + in) to out * in numbers; the remark says by how much.
    """

    name = "merge-low-rank"

    def run(self, program: Program, context: PassContext) -> int:
        merged = 0
        for outer in program.calls(linear):
            inner = outer.args[0]
            if not isinstance(inner, fx.Node) or inner.target is not linear:
                continue
            reason = _refusal(program, outer, inner)
            if reason:
                context.missed(outer, reason)
                continue
            _merge(program, outer, inner, context)
            merged += 1
        return merged


def _refusal(program: Program, outer: fx.Node, inner: fx.Node) -> str:
    if len(inner.users) > 1:
        return f"%{inner.name}, which it reads, is read by others too"
    parts = [bound_arguments(node)[name] for node in (outer, inner) for name in ("weight", "bias")]
    if not all(part is None or program.is_weight(part) for part in parts):
        return "a weight of the two layers is computed"
    return ""


def _merge(program: Program, outer: fx.Node, inner: fx.Node, context: PassContext) -> None:
    (u, b), (v, c) = ((found["weight"], found["bias"]) for found in map(bound_arguments, (outer, inner)))
    left, right = program.weight(u), program.weight(v)
    weight = (left.double() @ right.double()).to(left.dtype)
    bias = None if b is None else program.weight(b)
    if c is not None:
        moved = (left.double() @ program.weight(c).double()).to(left.dtype)
        bias = moved if bias is None else bias + moved
    grown = weight.numel() / (left.numel() + right.numel())
    context.applied(outer, f"rank {right.shape[0]} of {list(weight.shape)} multiplied out: {grown:.2f} times the numbers")
    program.replace_args(outer, inner.args[0], weight, bias)
