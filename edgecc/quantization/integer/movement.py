"""Movement: operators that only move elements, or pick the largest, do the same to codes as to the numbers they stand for.

`move(dequantize(codes))` becomes `dequantize(move(codes))`, so that what comes after sees the dequantize node.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from edgecc.ir.ops import bound_arguments
from edgecc.ir.program import Program
from edgecc.quantization.integer.codes import PER_TENSOR, activation

aten = torch.ops.aten

_MOVES = frozenset(
    {aten.view.default, aten.reshape.default, aten.flatten.using_ints, aten.permute.default, aten.transpose.int, aten.t.default}
    | {aten.squeeze.dim, aten.squeeze.default, aten.squeeze.dims, aten.unsqueeze.default, aten.expand.default, aten.slice.Tensor}
    | {aten.select.int, aten.clone.default, aten.contiguous.default, aten.flip.default, aten.repeat.default, aten.roll.default}
    | {aten.pixel_shuffle.default, aten.pixel_unshuffle.default, aten.channel_shuffle.default, aten.unflatten.int}
    | {aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default, aten.amax.default}
)
_PADS = frozenset({aten.constant_pad_nd.default, aten.pad.default})
_SPLITS = frozenset({aten.chunk.default, aten.split.Tensor, aten.split_with_sizes.default})


def move_codes(program: Program) -> int:
    """Move every operator that may be moved above the dequantize nodes that feed it; return how many."""
    moved = 0
    for node in program.calls():
        codes = activation(program, node.args[0]) if node.args else None
        if codes is None or program.is_weight(codes.node) or len(node.all_input_nodes) != 1:
            continue
        dequantize = node.args[0]
        assert isinstance(dequantize, fx.Node)
        grid = dequantize.args[1:]
        if node.target in _MOVES or _pads_zero(node):
            extra = (codes.grid.zero,) if node.target == aten.constant_pad_nd.default else ("constant", codes.grid.zero)
            arguments = [codes.node, *node.args[1:]]
            arguments = [codes.node, node.args[1], *extra] if node.target in _PADS else arguments
            inner = program.call_before(node, node.target, *arguments, **node.kwargs)  # type: ignore[arg-type]
            program.replace(node, program.call_before(node, PER_TENSOR[0], inner, *grid))
            moved += 1
        elif node.target in _SPLITS:
            inner = program.call_before(node, node.target, codes.node, *node.args[1:], **node.kwargs)
            for part in list(node.users):
                piece = program.call_before(part, part.target, inner, part.args[1])  # type: ignore[arg-type]
                program.replace(part, program.call_before(part, PER_TENSOR[0], piece, *grid))
            moved += 1
    return moved


def _pads_zero(node: fx.Node) -> bool:
    if node.target not in _PADS:
        return False
    bound: dict[str, Any] = bound_arguments(node)
    return bound.get("mode", "constant") == "constant" and not bound.get("value")
