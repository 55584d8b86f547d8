"""Comparisons and tests: results of dtype bool, operands promoted to their common dtype."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from edgecc.targeting.lowering import arguments_of, fake
from edgecc.targets.onnx_common.builder import Builder
from edgecc.targets.onnx_common.lowering.arithmetic import refuse_bitwise
from edgecc.targets.onnx_common.lowering.handler import Handler, Handlers, Value, handlers

aten = torch.ops.aten


def common_dtype(*operands: Any) -> torch.dtype:
    """The dtype in which PyTorch compares two operands (nodes, fake tensors or numbers)."""
    return torch.result_type(*(_representative(fake(o)) for o in operands))


def _representative(value: Any) -> Any:
    """A number of the same kind in place of a symbolic one, which must not be specialized."""
    if isinstance(value, torch.SymInt):
        return 1
    return 1.0 if isinstance(value, torch.SymFloat) else value


def _comparison(kind: str, *, negated: bool = False) -> Handler:
    def lower(b: Builder, node: fx.Node, x: Value, other: Value) -> Value:
        arguments = arguments_of(node)
        common = common_dtype(arguments["x"], arguments["other"])
        common = torch.int32 if common is torch.bool and kind != "Equal" else common  # only Equal takes bools
        found = b.op(kind, b.tensor(x, common), b.tensor(other, common), dtype=torch.bool)
        return b.op("Not", found) if negated else found

    return Handler(lower)


def _test(kind: str) -> Handler:
    """A test of floats, which no integer passes."""

    def lower(b: Builder, node: fx.Node, x: Value) -> Value:
        return b.op(kind, x, dtype=torch.bool) if b.dtype(x).is_floating_point else b.expand(b.constant(False, torch.bool), b.sizes(x))

    return Handler(lower)


def _is_finite(b: Builder, node: fx.Node, x: Value) -> Value:
    """`|x| < inf`, false for NaN."""
    if not b.dtype(x).is_floating_point:
        return b.expand(b.constant(True, torch.bool), b.sizes(x))
    return b.binary("Less", b.op("Abs", x), math.inf, dtype=torch.bool)


def _not(b: Builder, node: fx.Node, x: Value) -> Value:
    return b.op("Not", b.cast(x, torch.bool))


def _bitwise_not(b: Builder, node: fx.Node, x: Value) -> Value:
    return b.op("Not" if b.dtype(x) is torch.bool else "BitwiseNot", x)


_EQUAL, _NOT_EQUAL, _LESS = _comparison("Equal"), _comparison("Equal", negated=True), _comparison("Less")
_LESS_EQUAL, _GREATER, _GREATER_EQUAL = _comparison("LessOrEqual"), _comparison("Greater"), _comparison("GreaterOrEqual")

HANDLERS: Handlers = {
    aten.eq.Tensor: _EQUAL,
    aten.eq.Scalar: _EQUAL,
    aten.ne.Tensor: _NOT_EQUAL,
    aten.ne.Scalar: _NOT_EQUAL,
    aten.lt.Tensor: _LESS,
    aten.lt.Scalar: _LESS,
    aten.le.Tensor: _LESS_EQUAL,
    aten.le.Scalar: _LESS_EQUAL,
    aten.gt.Tensor: _GREATER,
    aten.gt.Scalar: _GREATER,
    aten.ge.Tensor: _GREATER_EQUAL,
    aten.ge.Scalar: _GREATER_EQUAL,
    aten.isnan.default: _test("IsNaN"),
    aten.isinf.default: _test("IsInf"),
    aten.isfinite.default: Handler(_is_finite),
    **handlers(_not, aten.logical_not.default),
    **handlers(_bitwise_not, aten.bitwise_not.default, refuse=refuse_bitwise),
}
