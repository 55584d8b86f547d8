"""Stored: constants that are kept as integers where what they are multiplied with, or looked up for, is floating point."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from edgecc.ir import provenance
from edgecc.ir.integer import integer
from edgecc.ir.ops import bound_arguments, each
from edgecc.ir.program import Program
from edgecc.ir.quantized import quantized
from edgecc.quantization.integer.codes import linear_operands, weight

aten = torch.ops.aten

_CONVOLUTIONS = (aten.conv1d.default, aten.conv2d.default, aten.conv3d.default, aten.convolution.default)


def keep_stored(program: Program, node: fx.Node) -> fx.Node | None:
    """The call on the integers of its constant, before `node`; None for one that has no such constant, or has it elsewhere."""
    if node.target in _CONVOLUTIONS:
        return _convolution(program, node)
    if node.target == aten.embedding.default:
        return _embedding(program, node)
    x, matrix, bias, transposed = linear_operands(node)
    found = _grouped(program, matrix, transposed) if isinstance(x, fx.Node) else None
    if found is None or x.meta["val"].dtype != torch.float32:
        return None
    codes, scale, shift, bits = found
    arguments = [_held(program, node, n, t) for n, t in (("codes", codes), ("scale", scale), ("shift", shift))]
    return program.call_before(node, integer.linear_codes.default, x, *arguments, bias, bits)


def _grouped(program: Program, node: Any, transposed: bool) -> tuple[Any, torch.Tensor, torch.Tensor | None, int] | None:
    """Codes [out, in], their scale and shift f32 [out, groups], and bits of a code."""
    if isinstance(node, fx.Node) and node.target == quantized.dequantize_per_channel_group.default and not transposed:
        bound = bound_arguments(node)
        if not program.is_weight(bound["input"]):
            return None
        scale = program.weight(bound["scales"]).float()
        zeros = None if bound["zero_points"] is None else program.weight(bound["zero_points"])
        shift = None if zeros is None or not bool(zeros.any()) else -zeros.float().view_as(scale) * scale
        return bound["input"], scale, shift, _bits(bound)
    held = weight(program, node)
    if held is None or held.codes.dim() != 2 or (held.scale.dim() and held.axis != int(transposed)):
        return None
    codes: Any = held.codes.t().contiguous() if transposed else held.node
    outputs = held.codes.shape[1 if transposed else 0]
    return codes, held.scale.float().expand(outputs).reshape(-1, 1).contiguous(), None, _bits(bound_arguments(node))


def _bits(bound: dict[str, Any]) -> int:
    return 4 if bound["quant_min"] >= -8 and bound["quant_max"] <= 7 else 8


def _convolution(program: Program, node: fx.Node) -> fx.Node | None:
    bound = bound_arguments(node)
    held = weight(program, bound["weight"])
    x = bound["input"]
    if held is None or (held.scale.dim() and held.axis != 0) or bound.get("transposed") or x.meta["val"].dtype != torch.float32:
        return None
    axes = held.codes.dim() - 2
    options = [each(v, axes) for v in (bound["stride"], bound["padding"], bound["dilation"])]
    if x.meta["val"].dim() != axes + 2:
        return None
    scale = _held(program, node, "scale", held.scale.float().expand(held.codes.shape[0]).contiguous())
    return program.call_before(node, integer.conv_codes.default, x, held.node, scale, bound["bias"], *options, bound["groups"])


def _embedding(program: Program, node: fx.Node) -> fx.Node | None:
    """Rows are looked up as integers, and scaled by what is looked up for them."""
    bound = bound_arguments(node)
    held = weight(program, bound["weight"])
    if held is None or (held.scale.dim() and held.axis != 0):
        return None
    rows = program.call_before(node, aten.embedding.default, held.node, bound["indices"])
    floats = program.call_before(node, aten.to.dtype, rows, torch.float32)
    if held.scale.dim() == 0:
        return program.call_before(node, aten.mul.Tensor, floats, float(held.scale.float()))
    table = _held(program, node, "scale", held.scale.float().view(-1, 1))
    return program.call_before(node, aten.mul.Tensor, floats, program.call_before(node, aten.embedding.default, table, bound["indices"]))


def _held(program: Program, node: fx.Node, name: str, value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    return program.add_weight(f"{provenance.module_path(node) or node.name}.{node.name}_{name}", value, node)
