"""lower-quantized: regions between dequantize and quantize nodes become integer arithmetic on the codes.

`quantize(op(dequantize(a), dequantize(b)))` is a sum of products of codes, exact in int32, and one multiplication with
rounding that takes it to the codes of the result: Jacob et al. 2018, equations 4 to 7. Bias and zero points are part of
the sum, clamps are bounds of the codes. What is pointwise between codes and codes is a table of its 256 results, and what
moves elements moves codes. Sums whose result is not quantized become floats in one multiplication. A constant that floats
are multiplied with, or that rows are taken from, stays integers until it is used.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

from edgecc.ir.integer import integer
from edgecc.ir.ops import bound_arguments, operator_name
from edgecc.ir.program import Program
from edgecc.pipeline.base import Lossy, Pass
from edgecc.pipeline.context import PassContext
from edgecc.quantization.integer.codes import QUANTIZE, Codes, Grid, activation, result
from edgecc.quantization.integer.dynamic import DynamicLowering
from edgecc.quantization.integer.emission import emit_codes, emit_floats, emit_sums
from edgecc.quantization.integer.movement import move_codes
from edgecc.quantization.integer.signs import store_codes
from edgecc.quantization.integer.stored import keep_stored
from edgecc.quantization.integer.sums import NotIntegerError, Sums, sums_of
from edgecc.quantization.integer.tables import table_of

aten = torch.ops.aten

_WEIGHTED = frozenset(
    {aten.linear.default, aten.addmm.default, aten.mm.default, aten.matmul.default, aten.bmm.default, aten.convolution.default}
    | {aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input}
    | {aten.conv1d.default, aten.conv2d.default, aten.conv3d.default, aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding}
)


@dataclass(frozen=True)
class LowerQuantized(Pass):
    """Compute what is between dequantize and quantize nodes on integers. `unsigned`: codes are uint8, else int8.

    Given the same codes, every call gives the codes of the rounded program or the next ones, where a sum is on the edge of a
    step; a step that falls otherwise moves every number after it, up to the noise of quantization itself.
    """

    name = "lower-quantized"
    numerics = Lossy(min_sqnr_db=10.0)

    unsigned: bool = False

    def run(self, program: Program, context: PassContext) -> int:
        dtype = torch.uint8 if self.unsigned else torch.int8
        changed = store_codes(program, dtype)
        while moved := move_codes(program):
            changed += moved
        lowering = _Lowering(program, context, DynamicLowering(program, dtype))
        for node in program.calls(*QUANTIZE):
            changed += lowering.quantize(node)
        for node in program.calls(*_WEIGHTED, aten.embedding.default):
            changed += lowering.keep_float(node) or lowering.keep_stored(node)
        return changed


class _Lowering:
    """`sums`: those of calls that more than one node reads."""

    def __init__(self, program: Program, context: PassContext, dynamic: DynamicLowering) -> None:
        self.program, self.context, self.dynamic = program, context, dynamic
        self._sums: dict[fx.Node, tuple[fx.Node, Sums]] = {}

    def quantize(self, node: fx.Node) -> bool:
        """Replace a quantize node by integer arithmetic, where what it rounds is computed from codes."""
        grid = result(self.program, node)
        if grid is None:
            return False
        producer, low, high = _unclamped(node.args[0], grid)
        inner = replace(grid, low=low, high=high)
        reason = ""
        try:
            new = self._table(node, grid) if _is_pointwise(self.program, producer) else None
            new = new or self._codes(node, producer, inner)
        except NotIntegerError as error:
            new, reason = self._table(node, grid), str(error)
        if new is None:
            if reason:
                self.context.missed(producer, f"stays in floats: {reason}")
            return False
        self.context.applied(node, f"{operator_name(producer.target)} on integers")
        self.program.replace(node, new)
        return True

    def keep_float(self, node: fx.Node) -> bool:
        """Sum codes in integers where the result is read as floats."""
        try:
            new = self.dynamic.lower(node)
            if new is None and any(activation(self.program, n) for n in node.all_input_nodes):
                sums, form = self._summed(node)
                new = emit_floats(self.program, node, sums, form.scale, form.axis, node.meta["val"].dtype)
        except NotIntegerError as error:
            self.context.missed(node, f"stays in floats: {error}")
            return False
        if new is None:
            return False
        self.context.applied(node, "sums of integers, read as floats")
        self.program.replace(node, new)
        return True

    def keep_stored(self, node: fx.Node) -> bool:
        """Keep the integers of a constant that floats are multiplied with."""
        if node._erased:
            return False
        new = keep_stored(self.program, node)
        if new is None:
            return False
        self.context.applied(node, "floats, by constants that stay integers")
        self.program.replace(node, new)
        return True

    def _codes(self, node: fx.Node, producer: fx.Node, grid: Grid) -> fx.Node | None:
        codes = activation(self.program, producer)
        if codes is not None:
            return None if self.program.is_weight(codes.node) else self._rescaled(node, codes, grid)
        if producer.target == aten.cat.default:
            return self._concatenated(node, producer, grid)
        if producer.op != "call_function":
            return None
        try:
            sums, form = self._summed(producer)
        except _NoSumsError:
            return None
        return emit_codes(self.program, node, sums, form.scale, form.axis, grid)

    def _summed(self, node: fx.Node) -> tuple[fx.Node, Sums]:
        if node not in self._sums:
            form = sums_of(self.program, node)
            if form is None:
                raise _NoSumsError("it is no sum")
            self._sums[node] = emit_sums(self.program, node, form), form
        return self._sums[node]

    def _rescaled(self, node: fx.Node, codes: Codes, grid: Grid) -> fx.Node:
        same = (codes.grid.scale, codes.grid.zero, codes.grid.dtype) == (grid.scale, grid.zero, grid.dtype)
        if same and grid.low <= codes.grid.low and grid.high >= codes.grid.high:
            return codes.node
        if same:
            return self.program.call_before(node, aten.clamp.default, codes.node, grid.low, grid.high)
        sums = self.program.call_before(node, integer.rescale_int32.default, codes.node, codes.grid.zero)
        return emit_codes(self.program, node, sums, torch.tensor(codes.grid.scale, dtype=torch.float64), -1, grid)

    def _concatenated(self, node: fx.Node, producer: fx.Node, grid: Grid) -> fx.Node | None:
        bound = bound_arguments(producer)
        parts = [activation(self.program, x) for x in bound["tensors"]]
        if any(p is None or self.program.is_weight(p.node) for p in parts):
            raise NotIntegerError("not all of its inputs are quantized")
        pieces = [self._rescaled(node, p, grid) for p in parts if p]
        return self.program.call_before(node, aten.cat.default, pieces, bound["dim"])

    def _table(self, node: fx.Node, grid: Grid) -> fx.Node | None:
        found = table_of(self.program, node)
        if found is None:
            return None
        codes, table = found
        held = self.program.add_weight(f"{node.name}_table", table, node)
        return self.program.call_before(node, integer.lookup.default, codes.node, held)


def _is_pointwise(program: Program, node: fx.Node) -> bool:
    """Whether a call of one operand may be a table: not where it multiplies weights or only dequantizes."""
    operands = [n for n in node.all_input_nodes if not program.is_weight(n)]
    return node.op == "call_function" and len(operands) == 1 and node.target not in _WEIGHTED and activation(program, node) is None


class _NoSumsError(NotIntegerError):
    """The operator sums nothing."""


def _unclamped(value: Any, grid: Grid) -> tuple[fx.Node, int, int]:
    """What is clamped on the way to a quantize node, and the codes that the clamps leave."""
    low, high = grid.low, grid.high
    while isinstance(value, fx.Node) and (bounds := _bounds(value)) is not None:
        least, most = bounds
        low = max(low, low if least is None else _code(least, grid))
        high = min(high, high if most is None else _code(most, grid))
        value = value.args[0]
    assert isinstance(value, fx.Node)
    return value, low, max(low, high)


def _code(number: float, grid: Grid) -> int:
    """The code of a number, which is that of every number up to half a step away, as quantize rounds."""
    scaled = torch.round(torch.tensor(number, dtype=torch.float32) * (1.0 / grid.scale))
    return int(min(max(int(scaled) + grid.zero, grid.low), grid.high))


def _bounds(node: fx.Node) -> tuple[float | None, float | None] | None:
    """The bounds of a clamp; None for any other node."""
    if node.op != "call_function":
        return None
    if node.target == aten.relu.default:
        return 0.0, None
    if node.target == aten.relu6.default:
        return 0.0, 6.0
    if node.target not in (aten.hardtanh.default, aten.clamp.default, aten.clamp_min.default, aten.clamp_max.default):
        return None
    bound = bound_arguments(node)
    least, most = bound.get("min", bound.get("min_val")), bound.get("max", bound.get("max_val"))
    return (least, most) if not isinstance(least, fx.Node) and not isinstance(most, fx.Node) else None
