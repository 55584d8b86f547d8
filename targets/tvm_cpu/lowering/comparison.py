"""Comparisons and tests: results of dtype bool, operands promoted to their common dtype."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from edgecc.targeting.lowering import arguments_of, fake
from edgecc.targets.tvm_cpu.lowering.builder import Builder, Expr, dtype, dtype_name
from edgecc.targets.tvm_cpu.lowering.handler import Handler, Handlers, Value, handlers

aten = torch.ops.aten


def common_dtype(*operands: Any) -> str:
    """The dtype in which PyTorch compares two operands (nodes, fake tensors or numbers)."""
    return dtype_name(torch.result_type(*(_representative(fake(o)) for o in operands)))


def _representative(value: Any) -> Any:
    """A number of the same kind in place of a symbolic one, which must not be specialized."""
    if isinstance(value, torch.SymInt):
        return 1
    return 1.0 if isinstance(value, torch.SymFloat) else value


def _comparison(name: str) -> Handler:
    def lower(b: Builder, node: fx.Node, x: Value, other: Value) -> Expr:
        arguments = arguments_of(node)
        common = common_dtype(arguments["x"], arguments["other"])
        common = "int8" if common == "bool" else common  # TVM compares bools as floats, and fails
        left, right = b.tensor(x, common), b.tensor(other, common)
        return b.not_equal(left, right) if name == "not_equal" else b.op(name, left, right)

    return Handler(lower)


def _test(name: str, of_integers: bool) -> Handler:
    """A test of floats, whose answer is the same for every integer."""

    def lower(b: Builder, node: fx.Node, x: Expr) -> Expr:
        if "float" in dtype(x):
            return b.op(name, x)
        return b.op("full", b.shape(node), b.constant(of_integers, "bool"), "bool")

    return Handler(lower)


def _not(b: Builder, node: fx.Node, x: Expr) -> Expr:
    return b.op("logical_not", b.cast(x, "bool"))


def _bitwise_not(b: Builder, node: fx.Node, x: Expr) -> Expr:
    return b.op("logical_not" if dtype(x) == "bool" else "bitwise_not", x)


_EQUAL, _NOT_EQUAL, _LESS = _comparison("equal"), _comparison("not_equal"), _comparison("less")
_LESS_EQUAL, _GREATER, _GREATER_EQUAL = _comparison("less_equal"), _comparison("greater"), _comparison("greater_equal")

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
    aten.isnan.default: _test("isnan", False),
    aten.isinf.default: _test("isinf", False),
    aten.isfinite.default: _test("isfinite", True),
    **handlers(_not, aten.logical_not.default),
    **handlers(_bitwise_not, aten.bitwise_not.default),
}
