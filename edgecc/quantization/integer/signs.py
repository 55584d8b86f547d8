"""Signs: the dtype that codes are stored in, int8 or uint8, as the multiplications of a CPU want it.

The numbers stay: codes and zero move by 128 together.
"""

from __future__ import annotations

import torch
from torch import fx

from edgecc.ir.integer import integer
from edgecc.ir.ops import bound_arguments
from edgecc.ir.program import Program
from edgecc.quantization.integer.codes import PER_TENSOR, QUANTIZE, Grid, activation, result


def store_codes(program: Program, dtype: torch.dtype) -> int:
    """Make every activation between quantize and dequantize nodes codes of `dtype`; return how many were not."""
    changed = 0
    for node in program.calls(*QUANTIZE):
        grid = result(program, node)
        if grid is None or grid.dtype == dtype:
            continue
        moved = _moved(grid)
        program.retarget(node, QUANTIZE[0], bound_arguments(node)["input"], *_arguments(moved))
        for user in list(node.users):
            if user.target in PER_TENSOR:
                program.retarget(user, PER_TENSOR[0], node, *_arguments(moved))
            else:
                _read_back(program, node, user)
        changed += 1
    for node in program.calls(*PER_TENSOR):
        found = activation(program, node)
        if found is None or program.is_weight(found.node) or found.grid.dtype == dtype:
            continue
        other = program.call_before(node, integer.rebase.default, found.node)
        program.retarget(node, PER_TENSOR[0], other, *_arguments(_moved(found.grid)))
        changed += 1
    return changed


def _read_back(program: Program, node: fx.Node, user: fx.Node) -> None:
    """Let a user that is no dequantize node read the codes as they were."""
    if user.op == "output":
        with program.graph.inserting_before(user):
            back = program.graph.call_function(integer.rebase.default, (node,))
        program.infer(back)
    else:
        back = program.call_before(user, integer.rebase.default, node)
    user.replace_input_with(node, back)


def _moved(grid: Grid) -> Grid:
    to, by = (torch.uint8, 128) if grid.dtype == torch.int8 else (torch.int8, -128)
    return Grid(grid.scale, grid.zero + by, grid.low + by, grid.high + by, to)


def _arguments(grid: Grid) -> tuple[float, int, int, int, torch.dtype]:
    return grid.scale, grid.zero, grid.low, grid.high, grid.dtype
