"""Arithmetic of two or more operands, promoted to the dtype of the result as PyTorch does."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from edgecc.targeting.lowering import arguments_of, fake
from edgecc.targets.tvm_cpu.lowering.builder import Builder, Expr, dtype, dtype_name
from edgecc.targets.tvm_cpu.lowering.handler import Handler, Handlers, Value, handlers

aten = torch.ops.aten


def result_dtype(node: fx.Node) -> str:
    """TVM's name of the dtype of a node's (first) result."""
    value = node.meta["val"]
    return dtype_name((value[0] if isinstance(value, (tuple, list)) else value).dtype)


def _promoted(name: str, of_bools: str | None = None) -> Handler:
    """A Relax operator on operands cast to the dtype of the result; `of_bools` is its counterpart for bool."""

    def lower(b: Builder, node: fx.Node, x: Value, other: Value, alpha: float = 1) -> Expr:
        to = result_dtype(node)
        left, right = b.tensor(x, to), b.tensor(other, to)
        if alpha != 1:
            right = b.binary("multiply", right, alpha)
        return b.op(of_bools if of_bools and to == "bool" else name, left, right)

    return Handler(lower)


def _reversed_subtract(b: Builder, node: fx.Node, x: Value, other: Value, alpha: float = 1) -> Expr:
    to = result_dtype(node)
    right = b.tensor(x, to)
    return b.op("subtract", b.tensor(other, to), right if alpha == 1 else b.binary("multiply", right, alpha))


def _divide(b: Builder, node: fx.Node, x: Value, other: Value, rounding_mode: str | None = None) -> Expr:
    to = result_dtype(node)
    left, right = b.tensor(x, to), b.tensor(other, to)
    if rounding_mode == "floor":
        return floor_divide(b, left, right)
    if rounding_mode == "trunc":
        return b.op("trunc", b.op("divide", left, right)) if "float" in to else b.broadcasting("trunc_divide", _trunc_divide, left, right)
    return b.op("divide", left, right)


def _lower_floor_divide(b: Builder, node: fx.Node, x: Value, other: Value) -> Expr:
    to = result_dtype(node)
    return floor_divide(b, b.tensor(x, to), b.tensor(other, to))


def floor_divide(b: Builder, x: Expr, y: Expr) -> Expr:
    """The quotient rounded down. Of floats it is exact: c10::div_floor_floating, from the remainder."""
    return b.broadcasting("floor_divide", _float_floor_divide, x, y) if "float" in dtype(x) else b.op("floor_divide", x, y)


def _remainder(b: Builder, node: fx.Node, x: Value, other: Value) -> Expr:
    to = result_dtype(node)
    left, right = b.tensor(x, to), b.tensor(other, to)
    return b.broadcasting("remainder", _float_remainder, left, right) if "float" in to else b.op("floor_mod", left, right)


def _fmod(b: Builder, node: fx.Node, x: Value, other: Value) -> Expr:
    to = result_dtype(node)
    kernel = _c_fmod if "float" in to else _trunc_remainder
    return b.broadcasting("fmod", kernel, b.tensor(x, to), b.tensor(other, to))


def _c_fmod(x: Any, y: Any) -> Any:
    from tvm import tirx

    to = str(x.ty.dtype)
    return tirx.call_pure_extern(to, "fmodf" if to == "float32" else "fmod", x, y)


def _signs_differ(x: Any, y: Any) -> Any:
    from tvm import tirx

    return tirx.any(tirx.all(x < 0, y > 0), tirx.all(x > 0, y < 0))


def _float_remainder(x: Any, y: Any) -> Any:
    from tvm import tirx

    rest = _c_fmod(x, y)
    return tirx.Select(_signs_differ(rest, y), rest + y, rest)


def _float_floor_divide(x: Any, y: Any) -> Any:
    from tvm import tirx

    rest = _c_fmod(x, y)
    quotient = (x - rest) / y
    quotient = tirx.Select(_signs_differ(rest, y), quotient - 1, quotient)
    down = tirx.floor(quotient)
    nearest = tirx.Select(quotient - down > 0.5, down + 1, down)
    return tirx.Select(y == 0, x / y, tirx.Select(quotient == 0, tirx.copysign(tirx.const(0, str(x.ty.dtype)), x / y), nearest))


def _trunc_divide(x: Any, y: Any) -> Any:
    from tvm import tirx

    return tirx.truncdiv(x, y)


def _trunc_remainder(x: Any, y: Any) -> Any:
    from tvm import tirx

    return tirx.truncmod(x, y)


# -- powers


def _power(b: Builder, node: fx.Node, x: Value, exponent: Value) -> Expr:
    to = result_dtype(node)
    if isinstance(exponent, (int, float)) and not isinstance(x, (int, float)):
        return _constant_power(b, b.tensor(x, to), exponent)
    return b.op("power", b.tensor(x, to), b.tensor(exponent, to))


def _constant_power(b: Builder, x: Expr, exponent: float) -> Expr:
    """The special cases of PyTorch's pow, exact where the general one rounds."""
    if exponent == 0.5:
        return b.op("sqrt", x)
    if exponent < 0 and exponent in (-0.5, -1, -2):
        return b.binary("divide", 1.0, _constant_power(b, x, -exponent))
    if exponent == 0:
        return b.op("ones_like", x)
    if exponent == int(exponent) and exponent > 0 and (exponent <= 8 or "int" in dtype(x)):
        return _natural_power(b, x, int(exponent))
    return b.broadcasting("power", lambda v: _c_power(v, exponent), x)


def _c_power(base: Any, exponent: float) -> Any:
    from tvm import tirx

    to = str(base.ty.dtype)
    return tirx.call_pure_extern(to, "powf" if to == "float32" else "pow", base, tirx.const(exponent, to))


def _natural_power(b: Builder, x: Expr, exponent: int) -> Expr:
    if exponent == 1:
        return x
    half = _natural_power(b, x, exponent // 2)
    square = b.op("multiply", half, half)
    return b.op("multiply", square, x) if exponent % 2 else square


def _refuse_power(node: fx.Node) -> str | None:
    arguments = arguments_of(node)
    base, exponent = fake(arguments["x"]), fake(arguments["exponent"])
    if any(isinstance(v, torch.Tensor) and v.is_floating_point() for v in (base, exponent)) or any(
        isinstance(v, float) for v in (base, exponent)
    ):
        return None
    if isinstance(exponent, int) and exponent >= 0 and isinstance(base, torch.Tensor) and base.dtype is not torch.bool:
        return None
    return "an integer power whose exponent is not a constant"


# -- three operands


def _fused(combine: str) -> Handler:
    """`x + value * (tensor1 op tensor2)`."""

    def lower(b: Builder, node: fx.Node, x: Value, tensor1: Value, tensor2: Value, value: float = 1) -> Expr:
        to = result_dtype(node)
        product = b.op(combine, b.tensor(tensor1, to), b.tensor(tensor2, to))
        return b.op("add", b.tensor(x, to), product if value == 1 else b.binary("multiply", product, value))

    return Handler(lower)


def _lerp(b: Builder, node: fx.Node, x: Value, end: Value, weight: Value) -> Expr:
    to = result_dtype(node)
    start = b.tensor(x, to)
    return b.op("add", start, b.op("multiply", b.tensor(weight, to), b.op("subtract", b.tensor(end, to), start)))


def _clamp(b: Builder, node: fx.Node, x: Value, min: Value = None, max: Value = None, min_val: Value = None, max_val: Value = None) -> Expr:
    to = result_dtype(node)
    result, low, high = b.tensor(x, to), min if min_val is None else min_val, max if max_val is None else max_val
    if low is not None:
        result = b.op("maximum", result, b.tensor(low, to))
    return result if high is None else b.op("minimum", result, b.tensor(high, to))


def clamp(b: Builder, x: Expr, low: float, high: float) -> Expr:
    """x limited to [low, high]; NaN stays NaN."""
    return b.binary("minimum", b.binary("maximum", x, low), high)


def _clamp_one_side(b: Builder, node: fx.Node, x: Value, min: Value = None, max: Value = None) -> Expr:
    return _clamp(b, node, x, min, max)


def _where(b: Builder, node: fx.Node, condition: Value, x: Value, other: Value) -> Expr:
    to = result_dtype(node)
    return b.op("where", b.tensor(condition, "bool"), b.tensor(x, to), b.tensor(other, to))


def _masked_fill(b: Builder, node: fx.Node, x: Value, mask: Value, value: Value) -> Expr:
    to = result_dtype(node)
    return b.op("where", b.tensor(mask, "bool"), b.tensor(value, to), b.tensor(x, to))


def _bitwise(name: str) -> Handler:
    def lower(b: Builder, node: fx.Node, x: Value, other: Value) -> Expr:
        to = result_dtype(node)
        return b.op(f"logical_{name}" if to == "bool" else f"bitwise_{name}", b.tensor(x, to), b.tensor(other, to))

    return Handler(lower)


def _logical(name: str) -> Handler:
    def lower(b: Builder, node: fx.Node, x: Value, other: Value) -> Expr:
        return b.op(f"logical_{name}", b.tensor(x, "bool"), b.tensor(other, "bool"))

    return Handler(lower)


_ADD, _SUBTRACT, _MULTIPLY = _promoted("add", "logical_or"), _promoted("subtract"), _promoted("multiply", "logical_and")
_MAXIMUM, _MINIMUM = _promoted("maximum", "logical_or"), _promoted("minimum", "logical_and")

HANDLERS: Handlers = {
    aten.add.Tensor: _ADD,
    aten.add.Scalar: _ADD,
    aten.sub.Tensor: _SUBTRACT,
    aten.sub.Scalar: _SUBTRACT,
    aten.mul.Tensor: _MULTIPLY,
    aten.mul.Scalar: _MULTIPLY,
    aten.multiply.Tensor: _MULTIPLY,
    aten.multiply.Scalar: _MULTIPLY,
    aten.maximum.default: _MAXIMUM,
    aten.minimum.default: _MINIMUM,
    aten.max.other: _MAXIMUM,
    aten.min.other: _MINIMUM,
    aten.atan2.default: _promoted("atan2"),
    aten.addcmul.default: _fused("multiply"),
    aten.addcdiv.default: _fused("divide"),
    aten.logical_and.default: _logical("and"),
    aten.logical_or.default: _logical("or"),
    aten.logical_xor.default: _logical("xor"),
    **handlers(_reversed_subtract, aten.rsub.Scalar, aten.rsub.Tensor),
    **handlers(_divide, aten.div.Tensor, aten.div.Scalar, aten.div.Tensor_mode, aten.div.Scalar_mode),
    **handlers(_divide, aten.divide.Tensor, aten.divide.Scalar, aten.true_divide.Tensor, aten.true_divide.Scalar),
    **handlers(_lower_floor_divide, aten.floor_divide.default, aten.floor_divide.Scalar),
    **handlers(_remainder, aten.remainder.Tensor, aten.remainder.Scalar, aten.remainder.Scalar_Tensor),
    **handlers(_fmod, aten.fmod.Tensor, aten.fmod.Scalar),
    **handlers(_power, aten.pow.Tensor_Scalar, aten.pow.Tensor_Tensor, aten.pow.Scalar, refuse=_refuse_power),
    **handlers(_lerp, aten.lerp.Scalar, aten.lerp.Tensor),
    **handlers(_clamp, aten.clamp.default, aten.clamp.Tensor, aten.clip.default, aten.clip.Tensor, aten.hardtanh.default),
    **handlers(_clamp_one_side, aten.clamp_min.default, aten.clamp_min.Tensor, aten.clamp_max.default, aten.clamp_max.Tensor),
    **handlers(_where, aten.where.self, aten.where.Scalar, aten.where.ScalarSelf, aten.where.ScalarOther),
    **handlers(_masked_fill, aten.masked_fill.Scalar, aten.masked_fill.Tensor),
    **dict.fromkeys((aten.bitwise_and.Tensor, aten.bitwise_and.Scalar, aten.__and__.Tensor, aten.__and__.Scalar), _bitwise("and")),
    **dict.fromkeys((aten.bitwise_or.Tensor, aten.bitwise_or.Scalar, aten.__or__.Tensor, aten.__or__.Scalar), _bitwise("or")),
    **dict.fromkeys((aten.bitwise_xor.Tensor, aten.bitwise_xor.Scalar, aten.__xor__.Tensor, aten.__xor__.Scalar), _bitwise("xor")),
}
