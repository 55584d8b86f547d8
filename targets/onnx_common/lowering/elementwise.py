"""Functions of one operand: activations, roundings, transcendental functions and casts."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from edgecc.ir.quantized import FLOAT8
from edgecc.targeting.lowering import arguments_of
from edgecc.targets.onnx_common.builder import Builder
from edgecc.targets.onnx_common.lowering import float8
from edgecc.targets.onnx_common.lowering.arithmetic import truncate
from edgecc.targets.onnx_common.lowering.handler import Handler, Handlers, Value, first, handlers, refuse_integers

aten = torch.ops.aten
_SELU = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946  # Klambauer et al. 2017, equation 14


def _function(kind: str, **attributes: Any) -> Handler:
    """An operator in the dtype of the result: an integer operand of Exp becomes float first."""

    def lower(b: Builder, node: fx.Node, x: Value) -> Value:
        return b.op(kind, b.cast(x, first(node).dtype), **attributes)

    return Handler(lower)


def _rounding(kind: str) -> Handler:
    """A rounding of floats, which leaves integers alone. ONNX Round takes halves to the even neighbour, as PyTorch does."""

    def lower(b: Builder, node: fx.Node, x: Value) -> Value:
        return b.op(kind, x) if b.dtype(x).is_floating_point else x

    return Handler(lower)


def _truncate(b: Builder, node: fx.Node, x: Value) -> Value:
    return truncate(b, x)


def _fraction(b: Builder, node: fx.Node, x: Value) -> Value:
    return b.op("Sub", x, truncate(b, x))


def _round_decimals(b: Builder, node: fx.Node, x: Value, decimals: int) -> Value:
    power = 10.0 ** abs(decimals)
    into, back = ("Mul", "Div") if decimals >= 0 else ("Div", "Mul")
    return b.binary(back, b.op("Round", b.binary(into, x, power)), power)


def _identity(b: Builder, node: fx.Node, x: Value, **_: Any) -> Value:
    return x


def _convert(b: Builder, node: fx.Node, x: Value, **_: Any) -> Value:
    to = first(node).dtype
    return float8.quantize(b, x) if to is FLOAT8 and b.dtype(x) is not FLOAT8 else b.cast(x, to)


def _relu(b: Builder, node: fx.Node, x: Value) -> Value:
    narrow = b.dtype(x) in (torch.int64, torch.int16, torch.uint8)
    return b.binary("Max", x, 0) if narrow else b.op("Relu", x)


def _relu6(b: Builder, node: fx.Node, x: Value) -> Value:
    return b.op("Clip", x, b.constant(0, b.dtype(x)), b.constant(6, b.dtype(x)))


def _gelu(b: Builder, node: fx.Node, x: Value, approximate: str) -> Value:
    """Gelu, of opset 20; below it the formula. Hendrycks and Gimpel 2016, section 2."""
    if b.opset >= 20:
        return b.op("Gelu", x, approximate=approximate)
    if approximate == "tanh":
        cubic = b.op("Add", x, b.binary("Mul", b.binary("Pow", x, 3.0), 0.044715))
        share = b.op("Tanh", b.binary("Mul", cubic, math.sqrt(2 / math.pi)))
    else:
        share = b.op("Erf", b.binary("Div", x, math.sqrt(2)))
    return b.binary("Mul", b.op("Mul", x, b.binary("Add", share, 1.0)), 0.5)


def _silu(b: Builder, node: fx.Node, x: Value) -> Value:
    return b.op("Mul", x, b.op("Sigmoid", x))


def _leaky_relu(b: Builder, node: fx.Node, x: Value, negative_slope: float) -> Value:
    return b.op("LeakyRelu", x, alpha=float(negative_slope))


def _elu(b: Builder, node: fx.Node, x: Value, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Value:
    """`scale * x` above 0, `scale * alpha * (exp(input_scale * x) - 1)` below."""
    scaled = b.binary("Mul", x, input_scale) if input_scale != 1 else x
    curved = b.op("Elu", scaled, alpha=float(alpha * input_scale))
    factor = scale / input_scale
    return curved if factor == 1 else b.binary("Mul", curved, factor)


def _celu(b: Builder, node: fx.Node, x: Value, alpha: float = 1) -> Value:
    return b.op("Celu", x, alpha=float(alpha))


def _selu(b: Builder, node: fx.Node, x: Value) -> Value:
    return b.op("Selu", x, alpha=_SELU[0], gamma=_SELU[1])


def softplus(b: Builder, x: Value, beta: float, threshold: float) -> Value:
    """`log(1 + exp(beta x)) / beta`, x itself where `beta x > threshold`; from 20 on that is the same number in float32."""
    scaled = x if beta == 1 else b.binary("Mul", x, beta)
    curved = b.op("Softplus", scaled)
    curved = curved if beta == 1 else b.binary("Div", curved, beta)
    if threshold >= 20:
        return curved
    return b.op("Where", b.binary("Greater", scaled, threshold, dtype=torch.bool), x, curved, dtype=b.dtype(x))


def _softplus(b: Builder, node: fx.Node, x: Value, beta: float = 1, threshold: float = 20) -> Value:
    return softplus(b, x, beta, threshold)


def _mish(b: Builder, node: fx.Node, x: Value) -> Value:
    return b.op("Mish", x) if b.opset >= 18 else b.op("Mul", x, b.op("Tanh", softplus(b, x, 1, 20)))


def _log_sigmoid(b: Builder, node: fx.Node, x: Value) -> Value:
    return b.op("Neg", softplus(b, b.op("Neg", x), 1, 20))


def _soft_shrink(b: Builder, node: fx.Node, x: Value, lambd: float = 0.5) -> Value:
    """`x - clip(x, -lambd, lambd)`. ONNX Shrink turns NaN into 0."""
    return b.op("Sub", x, b.op("Clip", x, b.constant(-lambd, b.dtype(x)), b.constant(lambd, b.dtype(x))))


def _hard_shrink(b: Builder, node: fx.Node, x: Value, lambd: float = 0.5) -> Value:
    inside = b.binary("LessOrEqual", b.op("Abs", x), lambd, dtype=torch.bool)
    return b.op("Where", inside, b.constant(0, b.dtype(x)), x, dtype=b.dtype(x))


def _threshold(b: Builder, node: fx.Node, x: Value, threshold: float, value: float) -> Value:
    below = b.binary("LessOrEqual", x, threshold, dtype=torch.bool)
    return b.op("Where", below, b.constant(value, b.dtype(x)), x, dtype=b.dtype(x))


def _prelu(b: Builder, node: fx.Node, x: Value, weight: Value) -> Value:
    """The slope is broadcast to x from its second axis. ONNX PRelu aligns the last axes."""
    return b.op("PRelu", x, b.reshape(weight, [b.count(weight, [0]), *[1] * max(b.rank(x) - 2, 0)]), sizes=b.sizes(x))


def _glu(b: Builder, node: fx.Node, x: Value, dim: int = -1) -> Value:
    axis, half = b.axis(dim, x), b.sizes_of(first(node))
    results = [(b.dtype(x), half)] * 2
    value, gate = b.ops("Split", x, axis=axis or None, num_outputs=2 if b.opset >= 18 else None, results=results)
    return b.op("Mul", value, b.op("Sigmoid", gate))


def _square(b: Builder, node: fx.Node, x: Value) -> Value:
    return b.op("Mul", x, x)


def _reciprocal_root(b: Builder, node: fx.Node, x: Value) -> Value:
    return b.op("Reciprocal", b.op("Sqrt", b.cast(x, first(node).dtype)))


def _shifted(kind: str, before: float, after: float) -> Handler:
    """`f(x + before) + after`."""

    def lower(b: Builder, node: fx.Node, x: Value) -> Value:
        inside = b.cast(x, first(node).dtype)
        inside = b.binary("Add", inside, before) if before else inside
        return b.binary("Add", b.op(kind, inside), after) if after else b.op(kind, inside)

    return Handler(lower)


def _error_complement(b: Builder, node: fx.Node, x: Value) -> Value:
    return b.binary("Sub", 1.0, b.op("Erf", b.cast(x, first(node).dtype)))


def _power_of_two(b: Builder, node: fx.Node, x: Value) -> Value:
    return b.binary("Pow", 2.0, b.cast(x, first(node).dtype))


def _logarithm(base: float) -> Handler:
    def lower(b: Builder, node: fx.Node, x: Value) -> Value:
        return b.binary("Div", b.op("Log", b.cast(x, first(node).dtype)), math.log(base))

    return Handler(lower)


def _refuse_training(node: fx.Node, opset: int) -> str | None:
    arguments = arguments_of(node)
    return "dropout in training mode" if arguments["train"] and arguments["p"] else None


_SAME_NAME = (
    *("exp", "log", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh", "tanh"),
    *("sigmoid", "erf", "neg", "abs", "sign", "sqrt", "reciprocal"),
)

HANDLERS: Handlers = {
    **{getattr(aten, name).default: _function(name.capitalize()) for name in _SAME_NAME},
    **{getattr(aten, name).default: _rounding(name.capitalize()) for name in ("floor", "ceil", "round")},
    aten.expm1.default: _shifted("Exp", 0, -1),
    aten.log1p.default: _shifted("Log", 1, 0),
    aten.log2.default: _logarithm(2),
    aten.log10.default: _logarithm(10),
    aten.hardsigmoid.default: _function("HardSigmoid", alpha=1 / 6, beta=0.5),
    aten.hardswish.default: _function("HardSwish"),
    **handlers(_reciprocal_root, aten.rsqrt.default),
    **handlers(_error_complement, aten.erfc.default),
    **handlers(_power_of_two, aten.exp2.default),
    **handlers(_truncate, aten.trunc.default, aten.fix.default),
    **handlers(_fraction, aten.frac.default),
    **handlers(_round_decimals, aten.round.decimals, refuse=refuse_integers),
    **handlers(_identity, aten.clone.default, aten.contiguous.default, aten.alias.default, aten.positive.default),
    **handlers(_identity, aten.detach.default, aten.detach_.default),
    **handlers(_identity, aten.lift_fresh_copy.default, aten.conj.default, aten.resolve_conj.default),
    **handlers(_identity, aten.dropout.default, aten.feature_dropout.default, aten.alpha_dropout.default, refuse=_refuse_training),
    **handlers(_convert, aten.to.dtype, aten.to.dtype_layout, aten.to.device, aten.to.other, refuse=float8.refuse_cast),
    **handlers(_convert, aten._to_copy.default, aten.type_as.default, refuse=float8.refuse_cast),
    **handlers(_relu, aten.relu.default),
    **handlers(_relu6, aten.relu6.default),
    **handlers(_gelu, aten.gelu.default),
    **handlers(_silu, aten.silu.default),
    **handlers(_leaky_relu, aten.leaky_relu.default),
    **handlers(_elu, aten.elu.default),
    **handlers(_celu, aten.celu.default),
    **handlers(_selu, aten.selu.default),
    **handlers(_softplus, aten.softplus.default),
    **handlers(_mish, aten.mish.default),
    **handlers(_log_sigmoid, aten.log_sigmoid.default),
    **handlers(_soft_shrink, aten.softshrink.default),
    **handlers(_hard_shrink, aten.hardshrink.default),
    **handlers(_threshold, aten.threshold.default),
    **handlers(_prelu, aten.prelu.default),
    **handlers(_glu, aten.glu.default),
    **handlers(_square, aten.square.default),
}
