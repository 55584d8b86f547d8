"""finalize-quant: fake-quant nodes become integers: q/dq pairs for activations, stored integers for weights.

The numbers stay as they are, bit for bit: both round half to even of x * (1 / s), and both give (q - z) * s in float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx

from edgecc.errors import UsageError
from edgecc.ir import provenance
from edgecc.ir.ops import short_name
from edgecc.ir.program import Program
from edgecc.ir.provenance import describe
from edgecc.ir.quantized import quantized
from edgecc.pipeline.base import EXACT, Pass
from edgecc.pipeline.context import PassContext
from edgecc.quantization import fake_quant
from edgecc.quantization.affine import quantize
from edgecc.quantization.fake_quant import Activation, Weight, call_after


@dataclass(frozen=True)
class FinalizeQuant(Pass):
    """Write `quantized_decomposed` operators: per tensor for activations, per channel or per group for weights."""

    name = "finalize-quant"
    numerics = EXACT

    def run(self, program: Program, context: PassContext) -> int:
        """Raises UsageError that lists every range that was never calibrated."""
        activations, weights = fake_quant.activations(program), fake_quant.weights(program)
        _check(program, activations)
        for found in activations:
            _finalize_activation(program, found)
        for weight in weights:
            _finalize_weight(program, weight)
        return len(activations) + len(weights)


def _check(program: Program, activations: list[Activation]) -> None:
    bad = [a for a in activations if not _is_calibrated(program.weight(a.scale))]
    if not bad:
        return
    places = [f"  %{a.x.name} ({describe(a.x) or 'no source line'})" for a in bad]
    more = [f"  and {len(places) - 8} more"] if len(places) > 8 else []
    raise UsageError(
        f"{len(bad)} range(s) are not calibrated:\n" + "\n".join(places[:8] + more), hint="run calibrate before finalize-quant"
    )


def _is_calibrated(scale: torch.Tensor) -> bool:
    return bool(torch.isfinite(scale).all() and (scale > 0).all())


def _finalize_activation(program: Program, found: Activation) -> None:
    scale, zero_point = float(program.weight(found.scale)), int(program.weight(found.zero_point))
    parameters = scale, zero_point, *found.limits, torch.int8
    q = call_after(program, found.node, quantized.quantize_per_tensor.default, found.x, *parameters)
    program.replace(found.node, call_after(program, q, quantized.dequantize_per_tensor.default, q, *parameters))


def _finalize_weight(program: Program, found: Weight) -> None:
    held, scale, zero_point = (program.weight(n) for n in (found.stored, found.scale, found.zero_point))
    dtype = torch.int8 if found.limits[0] < 0 else torch.uint8
    if found.group:
        rows = held.reshape(-1, found.group)
        numbers = quantize(rows, scale[:, None], zero_point[:, None], found.limits).to(dtype).reshape(held.shape[0], -1)
        out = _grouped(program, found, numbers, scale, zero_point, dtype)
    else:
        shape = [-1 if k == found.axis else 1 for k in range(held.dim())]
        numbers = quantize(held, scale.view(shape), zero_point.view(shape), found.limits).to(dtype)
        stored = program.add_weight(f"{found.stored.target}_quantized", numbers, found.stored)
        zeros = program.add_weight(f"{found.stored.target}_zero_points", zero_point.to(torch.int64), found.stored)
        out = _call(program, found, quantized.dequantize_per_channel.default, stored, found.scale, zeros, found.axis, *found.limits, dtype)
    program.replace(found.out, out)


def _grouped(
    program: Program, found: Weight, numbers: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, dtype: torch.dtype
) -> fx.Node:
    """Scales and zero points [out, groups]; none of the latter where all are 0."""
    name, shape = str(found.stored.target), (numbers.shape[0], -1)
    stored = program.add_weight(f"{name}_quantized", numbers, found.stored)
    scales = program.add_weight(f"{name}_scales", scale.reshape(shape), found.stored)
    zeros = program.add_weight(f"{name}_zero_points", zero_point.to(torch.int32).reshape(shape), found.stored) if zero_point.any() else None
    parameters = *found.limits, dtype, found.group, torch.float32
    out = _call(program, found, quantized.dequantize_per_channel_group.default, stored, scales, zeros, *parameters)
    whole = list(program.weight(found.stored).shape)
    return out if len(whole) == 2 else _call(program, found, torch.ops.aten.reshape.default, out, whole)


def _call(program: Program, found: Weight, target: object, *args: object) -> fx.Node:
    with program.graph.inserting_before(found.out):
        new = program.graph.create_node("call_function", target, args, name=short_name(target))  # type: ignore[arg-type]
    program.infer(new)
    provenance.inherit(new, [found.node])
    return new
