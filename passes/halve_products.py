"""halve-products: matrix products and convolutions in float16, everything between them in float32.

Operands are rounded to float16 (IEEE 754-2019, binary16), constants when the model is compiled, and sums are float16 too:
CPUs with that arithmetic multiply twice as many numbers in a register. Norms, softmax, activations and additions, where
rounding hurts most, keep float32. A constant beyond 65504 leaves its product in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from edgecc.ir.ops import bound_arguments
from edgecc.ir.program import Program
from edgecc.pipeline.base import Lossy, Pass
from edgecc.pipeline.context import PassContext

aten = torch.ops.aten

_PRODUCTS = (
    *(aten.linear.default, aten.matmul.default, aten.mm.default, aten.bmm.default),
    *(aten.conv1d.default, aten.conv2d.default, aten.conv1d.padding, aten.conv2d.padding),
)


@dataclass(frozen=True)
class HalveProducts(Pass):
    """Round the operands of products to float16, and widen the results."""

    name = "halve-products"
    numerics = Lossy(min_sqnr_db=40.0)

    def run(self, program: Program, context: PassContext) -> int:
        changed = 0
        for node in program.calls(*_PRODUCTS):
            reason = _refusal(program, node)
            if reason:
                context.missed(node, reason)
                continue
            if node.meta["val"].dtype != torch.float32:
                continue
            _halve(program, node)
            context.applied(node, "in float16")
            changed += 1
        return changed


def _refusal(program: Program, node: fx.Node) -> str:
    if node.meta["val"].dtype != torch.float32:
        return ""
    for operand in node.all_input_nodes:
        if program.is_weight(operand) and not bool((program.weight(operand).abs() <= torch.finfo(torch.float16).max).all()):
            return f"stays in float32: {operand.target} has numbers beyond float16"
    return ""


def _halve(program: Program, node: fx.Node) -> None:
    """The bias is added in float32."""
    bound = bound_arguments(node)
    bias = bound.get("bias")
    arguments = [_half(program, node, a) if isinstance(a, fx.Node) and a is not bias else a for a in node.args]
    if bias is not None:
        arguments[2] = None
    inner = program.call_before(node, node.target, *arguments, **node.kwargs)  # type: ignore[arg-type]
    wide = program.call_before(node, aten.to.dtype, inner, torch.float32)
    if bias is not None:
        rank = wide.meta["val"].dim()
        channels = (
            bias if node.target == aten.linear.default else program.call_before(node, aten.view.default, bias, [-1, *[1] * (rank - 2)])
        )
        wide = program.call_before(node, aten.add.Tensor, wide, channels)
    program.replace(node, wide)


def _half(program: Program, node: fx.Node, operand: fx.Node) -> Any:
    if not program.is_weight(operand):
        return program.call_before(node, aten.to.dtype, operand, torch.float16)
    return program.add_weight(f"{operand.target}_half", program.weight(operand).to(torch.float16), operand)
