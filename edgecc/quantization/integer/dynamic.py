"""Dynamic: products by constants of activations whose scale and zero are found for each row when the model runs.

`sum (c - z_i) w = sum c w - z_i sum w`, so the codes are multiplied as they are and a multiple of the columns' sums of
weights is taken off. The range of a row is found in float32; `quantized_decomposed` does it in float64, and a code may be
the next one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from edgecc.ir import provenance
from edgecc.ir.integer import CODES, integer
from edgecc.ir.program import Program
from edgecc.ir.quantized import quantized
from edgecc.quantization.integer.codes import linear_operands, weight
from edgecc.quantization.integer.sums import NotIntegerError, check_sums

aten = torch.ops.aten

_LINEARS = (aten.linear.default, aten.addmm.default, aten.mm.default, aten.matmul.default)


@dataclass(frozen=True)
class _Rows:
    """Codes of a tensor, and the scale f32 and the zero int32 of each row [.., 1]."""

    codes: fx.Node
    scale: fx.Node
    zero: fx.Node


class DynamicLowering:
    """Replaces products of rows that are quantized when the model runs; each row is quantized once for all of its products."""

    def __init__(self, program: Program, dtype: torch.dtype) -> None:
        self.program, self.dtype = program, dtype
        self._rows: dict[fx.Node, _Rows] = {}

    def lower(self, node: fx.Node) -> fx.Node | None:
        """The product on integers, before `node`; None for a call that is none. Raises NotIntegerError."""
        if node.target not in _LINEARS:
            return None
        x, matrix, bias, transposed = linear_operands(node)
        if not isinstance(x, fx.Node) or x.target != quantized.dequantize_per_token.default:
            return None
        quantize = x.args[0]
        if not isinstance(quantize, fx.Node) or quantize.target != quantized.quantize_per_token.default:
            raise NotIntegerError("its codes are made elsewhere")
        held = weight(self.program, matrix)
        if held is None or (held.scale.dim() and held.axis != int(transposed)):
            raise NotIntegerError("its weight is no int8 constant with a scale for each output")
        codes = held.codes.t() if transposed else held.codes
        low, high = CODES[self.dtype]
        columns = codes.to(torch.int64).sum(1)
        largest = codes.to(torch.int64).abs().sum(1) * max(high, -low)
        check_sums(int((2 * largest).max()))
        rows = self._quantized(quantize)
        return self._product(node, rows, held.node if not transposed else codes.contiguous(), columns, held.scale, bias)

    def _product(self, node: fx.Node, rows: _Rows, held: Any, columns: torch.Tensor, scale: torch.Tensor, bias: Any) -> fx.Node:
        call, stem = self.program.call_before, provenance.module_path(node) or node.name

        def weight_of(name: str, tensor: torch.Tensor) -> fx.Node:
            return self.program.add_weight(f"{stem}.{node.name}_{name}", tensor, node)

        matrix = weight_of("weight_int", held) if isinstance(held, torch.Tensor) else held
        sums = call(node, integer.linear_int32.default, rows.codes, matrix, None, 0)
        moved = call(node, aten.mul.Tensor, rows.zero, weight_of("columns", columns.to(torch.int32)))
        floats = call(node, aten.to.dtype, call(node, aten.sub.Tensor, sums, moved), torch.float32)
        floats = call(node, aten.mul.Tensor, floats, weight_of("scale", scale.to(torch.float32)))
        floats = call(node, aten.mul.Tensor, floats, rows.scale)
        return floats if bias is None else call(node, aten.add.Tensor, floats, bias)

    def _quantized(self, quantize: fx.Node) -> _Rows:
        """As `choose_qparams_per_token_asymmetric` does: of the zeros that either end of the range wants, that of the smaller error."""
        if quantize in self._rows:
            return self._rows[quantize]
        x = quantize.args[0]
        low, high = CODES[self.dtype]

        def call(target: Any, *arguments: Any) -> fx.Node:
            return self.program.call_before(quantize, target, *arguments)

        least = call(aten.clamp.default, call(aten.amin.default, x, [-1], True), None, 0.0)
        most = call(aten.clamp.default, call(aten.amax.default, x, [-1], True), 0.0)
        spread = call(aten.mul.Tensor, call(aten.sub.Tensor, most, least), 1.0 / (high - low))
        scale = call(aten.clamp.default, spread, torch.finfo(torch.float32).eps)
        inverse = call(aten.reciprocal.default, scale)
        below = call(aten.rsub.Scalar, call(aten.mul.Tensor, least, inverse), float(low))
        above = call(aten.rsub.Scalar, call(aten.mul.Tensor, most, inverse), float(high))
        # low + least / s + high + most / s > 0 as below + above < 2 (low + high)
        nearer = call(aten.lt.Scalar, call(aten.add.Tensor, below, above), float(2 * (low + high)))
        zero = call(aten.round.default, call(aten.clamp.default, call(aten.where.self, nearer, below, above), float(low), float(high)))
        steps = call(aten.round.default, call(aten.add.Tensor, call(aten.mul.Tensor, x, inverse), zero))
        codes = call(aten.to.dtype, call(aten.clamp.default, steps, float(low), float(high)), self.dtype)
        self._rows[quantize] = _Rows(codes, scale, call(aten.to.dtype, zero, torch.int32))
        return self._rows[quantize]
