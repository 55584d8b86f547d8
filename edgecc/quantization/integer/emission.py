"""Emission: integer operators in the place of the calls that they compute."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from edgecc.ir import provenance
from edgecc.ir.integer import fixed_point, integer
from edgecc.ir.program import Program
from edgecc.quantization.integer.codes import Grid
from edgecc.quantization.integer.sums import NotIntegerError, Sums

aten = torch.ops.aten


def emit_sums(program: Program, node: fx.Node, sums: Sums) -> fx.Node:
    """The sums, computed before `node`, whose tensors become weights named after its module."""
    stem = provenance.module_path(node) or node.name
    names = [a.name for a in sums.target._schema.arguments]
    arguments = [
        program.add_weight(f"{stem}.{name}_int", value, node) if isinstance(value, torch.Tensor) else value
        for name, value in zip(names, sums.arguments, strict=True)
    ]
    return program.call_before(node, sums.target, *arguments)


def emit_codes(program: Program, at: fx.Node, sums: fx.Node, scale: torch.Tensor, axis: int, grid: Grid) -> fx.Node:
    """The sums in steps of `scale` as codes of a grid, before `at`. Raises NotIntegerError for a scale out of range."""
    try:
        multiplier, shift = fixed_point(scale / grid.scale)
    except ValueError as error:
        raise NotIntegerError(str(error)) from error
    stem = provenance.module_path(at) or at.name
    held = program.add_weight(f"{stem}.{at.name}_multiplier", multiplier, at)
    return program.call_before(at, integer.requantize.default, sums, held, shift, axis, grid.zero, grid.low, grid.high, grid.dtype)


def emit_floats(program: Program, node: fx.Node, sums: fx.Node, scale: torch.Tensor, axis: int, dtype: torch.dtype) -> fx.Node:
    """The sums as the numbers that they stand for."""
    shape = [1] * sums.meta["val"].dim()
    if scale.dim():
        shape[axis] = scale.shape[0]
    stem = provenance.module_path(node) or node.name
    steps: Any = program.add_weight(f"{stem}.{node.name}_scale", scale.to(dtype).view(shape if scale.dim() else []), node)
    return program.call_before(node, aten.mul.Tensor, program.call_before(node, aten.to.dtype, sums, dtype), steps)
