"""Codes: what the quantize and dequantize nodes of a program say of the tensors between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from edgecc.ir.ops import bound_arguments
from edgecc.ir.program import Program
from edgecc.ir.quantized import quantized

aten = torch.ops.aten

PER_TENSOR = (quantized.dequantize_per_tensor.default, quantized.dequantize_per_tensor.tensor)
QUANTIZE = (quantized.quantize_per_tensor.default, quantized.quantize_per_tensor.tensor)


@dataclass(frozen=True)
class Grid:
    """The numbers `(code - zero) * scale` of the codes `low .. high`."""

    scale: float
    zero: int
    low: int
    high: int
    dtype: torch.dtype


@dataclass(frozen=True)
class Codes:
    """A node whose values are codes."""

    node: fx.Node
    grid: Grid

    @property
    def reach(self) -> int:
        """The largest magnitude of a code less the zero."""
        return max(self.grid.high - self.grid.zero, self.grid.zero - self.grid.low)


@dataclass(frozen=True)
class Weight:
    """Constant codes around zero: int8 [..] and their scale, float64 [] or [channels along `axis`]. `node`: the weight itself."""

    node: fx.Node
    codes: torch.Tensor
    scale: torch.Tensor
    axis: int


def activation(program: Program, node: Any) -> Codes | None:
    """The codes that a dequantize node reads, one scale for all; None for any other node."""
    if not isinstance(node, fx.Node) or node.target not in PER_TENSOR:
        return None
    grid = _grid(program, node)
    return None if grid is None else Codes(node.args[0], grid)  # type: ignore[arg-type]


def result(program: Program, node: fx.Node) -> Grid | None:
    """The grid that a quantize node rounds to; None for any other node, or a scale that is computed."""
    return _grid(program, node) if node.target in QUANTIZE else None


def weight(program: Program, node: Any) -> Weight | None:
    """The constant codes under a dequantize node; None for anything else, or where their zero is not 0."""
    if not isinstance(node, fx.Node) or not node.all_input_nodes or not program.is_weight(node.args[0]):
        return None
    if node.target == quantized.dequantize_per_channel.default:
        bound = bound_arguments(node)
        if not program.is_weight(bound["scales"]) or (bound["zero_points"] is not None and not program.is_weight(bound["zero_points"])):
            return None
        zeros = None if bound["zero_points"] is None else program.weight(bound["zero_points"])
        if zeros is not None and bool(zeros.any()):
            return None
        codes = program.weight(bound["input"])
        return (
            Weight(bound["input"], codes, program.weight(bound["scales"]).double(), bound["axis"] % codes.dim())
            if codes.dtype == torch.int8
            else None
        )
    found = activation(program, node)
    if found is None or found.grid.zero != 0 or found.grid.dtype != torch.int8:
        return None
    return Weight(found.node, program.weight(found.node), torch.tensor(found.grid.scale, dtype=torch.float64), 0)


def linear_operands(node: fx.Node) -> tuple[Any, Any, Any, bool]:
    """What a linear layer or a product of matrices multiplies, the constant, the bias, and whether the constant is [in, out].

    The first is None where the call does more than that.
    """
    bound = bound_arguments(node)
    if node.target == aten.linear.default:
        return bound["input"], bound["weight"], bound["bias"], False
    if node.target == aten.addmm.default:
        plain = bound["beta"] == 1 and bound["alpha"] == 1 and bound["self"].meta["val"].dim() == 1
        return (bound["mat1"] if plain else None), bound["mat2"], bound["self"], True
    return node.args[0], node.args[1], None, True


def _grid(program: Program, node: fx.Node) -> Grid | None:
    bound = bound_arguments(node)
    scale, zero = (_number(program, bound[name]) for name in ("scale", "zero_point"))
    if scale is None or zero is None or bound["dtype"] not in (torch.int8, torch.uint8):
        return None
    low, high = (_number(program, bound[name]) for name in ("quant_min", "quant_max"))
    if low is None or high is None:
        return None
    return Grid(float(scale), int(zero), int(low), int(high), bound["dtype"])


def _number(program: Program, value: Any) -> float | None:
    if isinstance(value, (int, float)):
        return value
    return float(program.weight(value).item()) if program.is_weight(value) and program.weight(value).numel() == 1 else None
