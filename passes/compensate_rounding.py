"""compensate-rounding: round the weights of a layer one column after another, and let the next ones make up for the error.

Frantar et al. 2022 (GPTQ), as `edgecc.quantization.columns` has it. The weights that come out stand on the grid of their
fake-quant node.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx

from edgecc.errors import UsageError
from edgecc.ir.program import Program
from edgecc.pipeline.base import LOSSY, Pass
from edgecc.pipeline.context import PassContext
from edgecc.quantization import fake_quant
from edgecc.quantization import operators as ops
from edgecc.quantization.affine import dequantize, quantize
from edgecc.quantization.columns import damped, inverse_factor, round_columns
from edgecc.quantization.fake_quant import Weight
from edgecc.quantization.statistics import second_moments


@dataclass(frozen=True)
class CompensateRounding(Pass):
    """Round fake-quantized weights of linear layers and convolutions so that columns make up for each other's errors.

    `damping`: part of the mean of H's diagonal that is added to it.
    """

    name = "compensate-rounding"
    numerics = LOSSY  # against the weights rounded to nearest, from which this moves away

    damping: float = 0.01

    def run(self, program: Program, context: PassContext) -> int:
        """Raises UsageError for a damping that is not positive, and for activations that are not finite."""
        if not self.damping > 0:
            raise UsageError(f"damping is {self.damping:g}, want more than 0")
        layers = {found: _layer(found) for found in fake_quant.weights(program)}
        known = {found: node for found, node in layers.items() if node is not None}
        for found in layers.keys() - known.keys():
            context.missed(found.node, "rounded to nearest: its weight is read by none or by several layers, or by no row")
        if not known:
            return 0
        moments = second_moments(program, list(known.values()), context.data, context.progress)
        return sum(_compensate(program, found, node, moments[node], self, context) for found, node in known.items() if node in moments)


def _layer(found: Weight) -> fx.Node | None:
    """The layer that alone reads the weight by rows."""
    readers = [u for u in found.out.users if u.target in ops.CONTRACTIONS]
    if len(readers) != 1 or len(found.out.users) != 1 or found.axis:
        return None
    (node,) = readers
    padded = node.target in ops.CONVOLUTIONS and isinstance(node.args[4] if len(node.args) > 4 else None, str)
    if node.target is not torch.ops.aten.linear.default and (node.target not in ops.CONVOLUTIONS or padded):
        return None
    return None if node.target in (torch.ops.aten.conv3d.default, torch.ops.aten.conv3d.padding) else node


def _compensate(
    program: Program, found: Weight, node: fx.Node, moments: torch.Tensor, options: CompensateRounding, context: PassContext
) -> bool:
    held = program.weight(found.stored)
    groups = len(moments)
    rows = held.reshape(groups, held.shape[0] // groups, -1).double()
    scale, zero_point = (_per_number(program.weight(p), held, found) for p in (found.scale, found.zero_point))
    scale, zero_point = scale.view_as(rows).double(), zero_point.view_as(rows)
    nearest = dequantize(quantize(rows, scale, zero_point, found.limits), scale, zero_point)
    before = _loss(rows - nearest, moments)
    if before <= 1e-12 * _loss(rows, moments):
        return False
    moved = torch.stack([_round(rows[g], moments[g], scale[g], zero_point[g], found.limits, options.damping) for g in range(groups)])
    after = _loss(rows - moved, moments)
    if not after < before:
        context.missed(node, "rounded to nearest: compensating gains nothing on this data")
        return False
    program.set_weight(found.stored, moved.view_as(held).to(held.dtype))
    context.applied(node, f"error of its output {after / before:.2f} times that of rounding to nearest")
    return True


def _per_number(parameter: torch.Tensor, weight: torch.Tensor, found: Weight) -> torch.Tensor:
    """A scale or zero point for each number of the weight [out, ...]."""
    per_row = weight.numel() // len(parameter)
    return parameter.repeat_interleave(per_row)


def _loss(error: torch.Tensor, moments: torch.Tensor) -> float:
    """sum ||E x||^2 over the data. error [groups, rows, k], moments [groups, k, k]."""
    return float((error @ moments * error).sum())


def _round(
    rows: torch.Tensor, moment: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, limits: tuple[int, int], damping: float
) -> torch.Tensor:
    """rows [n, k] f64 to numbers on the grid."""

    def nearest(j: int, column: torch.Tensor) -> torch.Tensor:
        return dequantize(quantize(column, scale[:, j], zero_point[:, j], limits), scale[:, j], zero_point[:, j])

    return round_columns(rows.T.contiguous(), inverse_factor(damped(moment, damping)), nearest).T
