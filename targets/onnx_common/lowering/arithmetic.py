"""Arithmetic of two or more operands, promoted to the dtype of the result as PyTorch does."""

from __future__ import annotations

import torch
from torch import fx

from edgecc.targeting.lowering import arguments_of, fake
from edgecc.targets.onnx_common.builder import Builder
from edgecc.targets.onnx_common.lowering.handler import Handler, Handlers, Value, first, handlers

aten = torch.ops.aten


def _promoted(kind: str, of_bools: str = "") -> Handler:
    """An operator on operands cast to the dtype of the result; `of_bools` is its counterpart for bool."""

    def lower(b: Builder, node: fx.Node, x: Value, other: Value, alpha: float = 1) -> Value:
        to = first(node).dtype
        left, right = b.tensor(x, to), b.tensor(other, to)
        if alpha != 1:
            right = b.binary("Mul", right, alpha)
        return b.op(of_bools if of_bools and to is torch.bool else kind, left, right)

    return Handler(lower)


def _reversed_subtract(b: Builder, node: fx.Node, x: Value, other: Value, alpha: float = 1) -> Value:
    to = first(node).dtype
    right = b.tensor(x, to)
    return b.op("Sub", b.tensor(other, to), right if alpha == 1 else b.binary("Mul", right, alpha))


def _divide(b: Builder, node: fx.Node, x: Value, other: Value, rounding_mode: str | None = None) -> Value:
    to = first(node).dtype
    left, right = b.tensor(x, to), b.tensor(other, to)
    if rounding_mode == "floor":
        return floor_divide(b, left, right)
    quotient = b.op("Div", left, right)  # ONNX Div of integers rounds towards zero
    return truncate(b, quotient) if rounding_mode == "trunc" else quotient


def _lower_floor_divide(b: Builder, node: fx.Node, x: Value, other: Value) -> Value:
    to = first(node).dtype
    return floor_divide(b, b.tensor(x, to), b.tensor(other, to))


def truncate(b: Builder, x: Value) -> Value:
    """Round towards zero; integers stay."""
    return b.op("Mul", b.op("Sign", x), b.op("Floor", b.op("Abs", x))) if b.dtype(x).is_floating_point else x


def floor_divide(b: Builder, x: Value, y: Value) -> Value:
    """The quotient rounded down. Of floats it is exact: c10::div_floor_floating, from the remainder."""
    if b.dtype(x) is torch.uint8:
        return b.op("Div", x, y)
    if not b.dtype(x).is_floating_point:
        return b.op("Div", b.op("Sub", x, b.op("Mod", x, y)), y)
    rest = b.op("Mod", x, y, fmod=1)
    quotient = b.op("Div", b.op("Sub", x, rest), y)
    whole = b.op("Round", b.op("Where", _signs_differ(b, rest, y), b.binary("Sub", quotient, 1), quotient, dtype=b.dtype(x)))
    return b.op("Where", b.binary("Equal", y, 0, dtype=torch.bool), b.op("Div", x, y), whole, dtype=b.dtype(x))


def _remainder(b: Builder, node: fx.Node, x: Value, other: Value) -> Value:
    """The remainder with the sign of the divisor: ONNX Mod of integers; of floats Mod has the sign of the dividend."""
    to = first(node).dtype
    left, right = b.tensor(x, to), b.tensor(other, to)
    if not to.is_floating_point:
        return b.op("Mod", left, right)
    rest = b.op("Mod", left, right, fmod=1)
    return b.op("Where", _signs_differ(b, rest, right), b.op("Add", rest, right), rest, dtype=to)


def _signs_differ(b: Builder, rest: Value, y: Value) -> Value:
    """Whether a remainder is not zero and has another sign than the divisor, which a product below zero says."""
    return b.binary("Less", b.op("Mul", b.op("Sign", rest), b.op("Sign", y)), 0, dtype=torch.bool)


def _fmod(b: Builder, node: fx.Node, x: Value, other: Value) -> Value:
    to = first(node).dtype
    return b.op("Mod", b.tensor(x, to), b.tensor(other, to), fmod=1)


def _power(b: Builder, node: fx.Node, x: Value, exponent: Value) -> Value:
    to = first(node).dtype
    base = b.tensor(x, to)
    if not isinstance(exponent, (int, float)):
        return b.op("Pow", base, b.tensor(exponent, to))
    match exponent:
        case 1:
            return base
        case 2:
            return b.op("Mul", base, base)
        case 0.5:
            return b.op("Sqrt", base)
        case -1:
            return b.op("Reciprocal", base)
        case -0.5:
            return b.op("Reciprocal", b.op("Sqrt", base))
    return b.binary("Pow", base, exponent)


def _refuse_power(node: fx.Node, opset: int) -> str | None:
    arguments = arguments_of(node)
    base, exponent = fake(arguments["x"]), fake(arguments["exponent"])
    if first(node).is_floating_point() or (isinstance(exponent, int) and exponent >= 0 and isinstance(base, torch.Tensor)):
        narrow = first(node).dtype in (torch.bool, torch.uint8, torch.int8, torch.int16)
        return "a power of integers of less than 32 bits" if narrow else None
    return "an integer power whose exponent is not a constant"


def _fused(kind: str) -> Handler:
    """`x + value * (tensor1 op tensor2)`."""

    def lower(b: Builder, node: fx.Node, x: Value, tensor1: Value, tensor2: Value, value: float = 1) -> Value:
        to = first(node).dtype
        product = b.op(kind, b.tensor(tensor1, to), b.tensor(tensor2, to))
        return b.op("Add", b.tensor(x, to), product if value == 1 else b.binary("Mul", product, value))

    return Handler(lower)


def _lerp(b: Builder, node: fx.Node, x: Value, end: Value, weight: Value) -> Value:
    to = first(node).dtype
    start = b.tensor(x, to)
    return b.op("Add", start, b.op("Mul", b.tensor(weight, to), b.op("Sub", b.tensor(end, to), start)))


def _clamp(
    b: Builder, node: fx.Node, x: Value, min: Value = None, max: Value = None, min_val: Value = None, max_val: Value = None
) -> Value:
    """Two limits that are numbers become Clip; others Max and Min, as a limit that Clip lacks is the largest finite number."""
    to = first(node).dtype
    low, high = (min if min_val is None else min_val), (max if max_val is None else max_val)
    if all(isinstance(v, (int, float)) for v in (low, high)) and to is not torch.int16:
        return b.op("Clip", b.cast(x, to), b.constant(low, to), b.constant(high, to))
    result = b.cast(x, to)
    for kind, limit in (("Max", low), ("Min", high)):
        result = result if limit is None else b.op(kind, result, b.tensor(limit, to))
    return result


def _clamp_one_side(b: Builder, node: fx.Node, x: Value, min: Value = None, max: Value = None) -> Value:
    return _clamp(b, node, x, min, max)


def _where(b: Builder, node: fx.Node, condition: Value, x: Value, other: Value) -> Value:
    to = first(node).dtype
    return where(b, b.cast(condition, torch.bool), b.tensor(x, to), b.tensor(other, to))


def _masked_fill(b: Builder, node: fx.Node, x: Value, mask: Value, value: Value) -> Value:
    to = first(node).dtype
    return where(b, b.cast(mask, torch.bool), b.tensor(value, to), b.cast(x, to))


def where(b: Builder, condition: Value, x: Value, y: Value) -> Value:
    """x where the condition is true, else y, both of one dtype. ONNX Runtime has no Where of bool and int16."""
    to = b.dtype(x)
    if to is torch.bool:
        return b.op("Or", b.op("And", condition, x), b.op("And", b.op("Not", condition), y))
    through = torch.int32 if to is torch.int16 else to
    return b.cast(b.op("Where", condition, b.cast(x, through), b.cast(y, through), dtype=through), to)


def _bitwise(name: str) -> Handler:
    def lower(b: Builder, node: fx.Node, x: Value, other: Value) -> Value:
        to = first(node).dtype
        return b.op(name if to is torch.bool else f"Bitwise{name}", b.tensor(x, to), b.tensor(other, to))

    return Handler(lower, refuse_bitwise)


def refuse_bitwise(node: fx.Node, opset: int) -> str | None:
    """BitwiseAnd, BitwiseOr, BitwiseXor and BitwiseNot are of opset 18."""
    return "bits of integers need opset 18" if first(node).dtype is not torch.bool and opset < 18 else None


def _logical(name: str) -> Handler:
    def lower(b: Builder, node: fx.Node, x: Value, other: Value) -> Value:
        return b.op(name, b.tensor(x, torch.bool), b.tensor(other, torch.bool))

    return Handler(lower)


_ADD, _SUBTRACT, _MULTIPLY = _promoted("Add", "Or"), _promoted("Sub"), _promoted("Mul", "And")
_MAXIMUM, _MINIMUM = _promoted("Max", "Or"), _promoted("Min", "And")

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
    aten.addcmul.default: _fused("Mul"),
    aten.addcdiv.default: _fused("Div"),
    aten.logical_and.default: _logical("And"),
    aten.logical_or.default: _logical("Or"),
    aten.logical_xor.default: _logical("Xor"),
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
    **dict.fromkeys((aten.bitwise_and.Tensor, aten.bitwise_and.Scalar, aten.__and__.Tensor, aten.__and__.Scalar), _bitwise("And")),
    **dict.fromkeys((aten.bitwise_or.Tensor, aten.bitwise_or.Scalar, aten.__or__.Tensor, aten.__or__.Scalar), _bitwise("Or")),
    **dict.fromkeys((aten.bitwise_xor.Tensor, aten.bitwise_xor.Scalar, aten.__xor__.Tensor, aten.__xor__.Scalar), _bitwise("Xor")),
}
