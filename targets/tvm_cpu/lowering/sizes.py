"""Sizes: the integer expressions of torch.export as expressions of TVM."""

from __future__ import annotations

import functools
import operator
from typing import Any

from edgecc.errors import InternalError
from edgecc.ir.fake import size_expression


class Sizes:
    """One TVM variable for each symbol; the inputs of the program define them."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._variables: dict[str, tuple[str, int, int]] = {}

    def variable(self, symbol: str) -> tuple[str, int, int]:
        """The variable that carries a symbol of the inputs, as (name, a, b): its value is `a*symbol + b`."""
        return self._variables[symbol]

    def __call__(self, size: Any) -> Any:
        """A Python or symbolic number as a Python number or a TVM expression, int64 or float64."""
        if isinstance(size, (bool, int, float)):
            return size
        return self._convert(size_expression(size))

    def input_shape(self, shape: Any) -> list[Any]:
        """The shape of an input, in which a symbol that stands alone becomes a variable.

        For a symbol that only occurs as `a*s + b`, the whole size becomes a variable, and s is computed from it.
        """
        return [self._input_size(size) for size in shape]

    def _input_size(self, size: Any) -> Any:
        from tvm import tirx

        expression = size_expression(size)
        if isinstance(expression, int):
            return expression
        unknown = [s for s in expression.free_symbols if s.name not in self._values]
        if not unknown:
            return self._convert(expression)
        if expression.is_Symbol:
            self._variables[expression.name] = expression.name, 1, 0
            return self._values.setdefault(expression.name, tirx.Var(expression.name, "int64"))
        symbol, zero = unknown[0], dict.fromkeys(expression.free_symbols, 0)
        offset, factor = expression.subs(zero), expression.coeff(symbol)
        if len(expression.free_symbols) != 1 or not factor.is_Integer or expression.expand() != (factor * symbol + offset).expand():
            raise InternalError(f"an input has the size {expression}, and no input has the size {symbol} alone")
        whole = tirx.Var(f"{symbol.name}_whole", "int64")
        self._variables[symbol.name] = whole.name, int(factor), int(offset)
        self._values[symbol.name] = tirx.floordiv(whole - int(offset), int(factor))
        return whole

    def _convert(self, expression: Any) -> Any:
        if isinstance(expression, (int, float)):
            return expression
        if expression.is_Integer:
            return int(expression)
        if expression.is_number:
            return float(expression)
        if expression.is_Symbol:
            if expression.name not in self._values:
                raise InternalError(f"the size {expression} occurs before an input defines it")
            return self._values[expression.name]
        return _combine(type(expression).__name__, [self._convert(a) for a in expression.args])


def _combine(name: str, args: list[Any]) -> Any:
    from tvm import tirx

    match name:
        case "Add":
            return functools.reduce(operator.add, args)
        case "Mul":
            return functools.reduce(operator.mul, args)
        case "Max":
            return functools.reduce(tirx.max, args)
        case "Min":
            return functools.reduce(tirx.min, args)
        case "FloorDiv" | "CleanDiv":
            return tirx.floordiv(*args)
        case "Mod" | "PythonMod":
            return tirx.floormod(*args)
        case "Pow" | "PowByNatural":
            return functools.reduce(operator.mul, [args[0]] * int(args[1]))
        case "ToFloat":
            return _float(args[0])
        case "IntTrueDiv" | "FloatTrueDiv":
            return _float(args[0]) / _float(args[1])
        case "FloatPow":
            return tirx.pow(_float(args[0]), _float(args[1]))
        case "OpaqueUnaryFn_sqrt":
            return tirx.sqrt(_float(args[0]))
        case "CeilToInt":
            return tirx.ceil(_float(args[0])).astype("int64")
        case "FloorToInt":
            return tirx.floor(_float(args[0])).astype("int64")
        case "TruncToInt":
            return tirx.trunc(_float(args[0])).astype("int64")
    raise InternalError(f"the size operator {name} was not refused and cannot be lowered")


def _float(value: Any) -> Any:
    from tvm import tirx

    return tirx.const(float(value), "float64") if isinstance(value, (int, float)) else value.astype("float64")
