"""Functions of one operand: activations, roundings, transcendental functions and casts."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from edgecc.targeting.lowering import arguments_of, fake
from edgecc.targets.tvm_cpu.lowering.arithmetic import clamp, result_dtype
from edgecc.targets.tvm_cpu.lowering.builder import Builder, Expr, dtype, shape
from edgecc.targets.tvm_cpu.lowering.handler import Handler, Handlers, Value, handlers
from edgecc.targets.tvm_cpu.vector_math.intrinsics import call

aten = torch.ops.aten


def _function(name: str) -> Handler:
    """A Relax operator in the dtype of the result: an integer operand of `exp` becomes float first."""

    def lower(b: Builder, node: fx.Node, x: Expr) -> Expr:
        return b.op(name, b.cast(x, result_dtype(node)))

    return Handler(lower)


def _rounding(name: str) -> Handler:
    """A rounding of floats, which leaves integers alone."""

    def lower(b: Builder, node: fx.Node, x: Expr) -> Expr:
        return b.op(name, x) if "float" in dtype(x) else x

    return Handler(lower)


def _extern(name: str) -> Handler:
    """A function of the C mathematics library that TVM has no operator for."""

    def lower(b: Builder, node: fx.Node, x: Expr) -> Expr:
        return extern(b, name, b.cast(x, result_dtype(node)))

    return Handler(lower)


def _intrinsic(name: str) -> Handler:
    """A function that vector_math has an operator for, and Relax none."""

    def lower(b: Builder, node: fx.Node, x: Expr) -> Expr:
        return intrinsic(b, name, b.cast(x, result_dtype(node)))

    return Handler(lower)


def intrinsic(b: Builder, name: str, x: Expr) -> Expr:
    """An operator of vector_math applied to each element of x."""
    return b.compute(name, shape(x), lambda t, *index: call(name, t(*index)), x)


def extern(b: Builder, name: str, x: Expr) -> Expr:
    """A function of the C mathematics library, in the precision of x."""
    from tvm import tirx

    to = dtype(x)
    symbol = f"{name}f" if to == "float32" else name
    return b.compute(name, shape(x), lambda t, *index: tirx.call_pure_extern(to, symbol, t(*index)), x)


def _identity(b: Builder, node: fx.Node, x: Value, **_: Any) -> Value:
    return x


def _convert(b: Builder, node: fx.Node, x: Expr, **_: Any) -> Expr:
    return b.cast(x, result_dtype(node))


def _relu6(b: Builder, node: fx.Node, x: Expr) -> Expr:
    return clamp(b, x, 0, 6)


def _gelu(b: Builder, node: fx.Node, x: Expr, approximate: str) -> Expr:
    return b.op("nn.gelu_tanh", x) if approximate == "tanh" else intrinsic(b, "gelu", x)


def _leaky_relu(b: Builder, node: fx.Node, x: Expr, negative_slope: float) -> Expr:
    return b.op("nn.leakyrelu", x, float(negative_slope))


def _hard_sigmoid(b: Builder, node: fx.Node, x: Expr) -> Expr:
    return b.binary("divide", clamp(b, b.binary("add", x, 3.0), 0.0, 6.0), 6.0)


def _hard_swish(b: Builder, node: fx.Node, x: Expr) -> Expr:
    return b.op("multiply", x, _hard_sigmoid(b, node, x))


def _elu(b: Builder, node: fx.Node, x: Expr, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Expr:
    """`scale * x` above 0, `scale * alpha * (exp(input_scale * x) - 1)` below."""
    below = intrinsic(b, "expm1", x if input_scale == 1 else b.binary("multiply", x, input_scale))
    below = below if alpha * scale == 1 else b.binary("multiply", below, alpha * scale)
    return b.op("where", b.binary("greater", x, 0), x if scale == 1 else b.binary("multiply", x, scale), below)


def _celu(b: Builder, node: fx.Node, x: Expr, alpha: float = 1) -> Expr:
    return _elu(b, node, x, alpha, 1, 1 / alpha)


def _selu(b: Builder, node: fx.Node, x: Expr) -> Expr:
    return _elu(b, node, x, 1.6732632423543772848170429916717, 1.0507009873554804934193349852946)


def softplus(b: Builder, x: Expr, beta: float, threshold: float) -> Expr:
    """`log(1 + exp(beta x)) / beta`, x itself where `beta x > threshold`."""
    scaled = x if beta == 1 else b.binary("multiply", x, beta)
    curved = intrinsic(b, "log1p", b.op("exp", b.binary("minimum", scaled, threshold)))
    curved = curved if beta == 1 else b.binary("divide", curved, beta)
    return b.op("where", b.binary("greater", scaled, threshold), x, curved)


def _softplus(b: Builder, node: fx.Node, x: Expr, beta: float = 1, threshold: float = 20) -> Expr:
    return softplus(b, x, beta, threshold)


def _mish(b: Builder, node: fx.Node, x: Expr) -> Expr:
    return b.op("multiply", x, b.op("tanh", softplus(b, x, 1, 20)))


def _log_sigmoid(b: Builder, node: fx.Node, x: Expr) -> Expr:
    """`min(x, 0) - log1p(exp(-|x|))`, which neither overflows nor cancels."""
    tail = intrinsic(b, "log1p", b.op("exp", b.op("negative", b.op("abs", x))))
    return b.op("subtract", b.binary("minimum", x, 0), tail)


def _soft_sign(b: Builder, node: fx.Node, x: Expr) -> Expr:
    return b.op("divide", x, b.binary("add", b.op("abs", x), 1))


def _soft_shrink(b: Builder, node: fx.Node, x: Expr, lambd: float = 0.5) -> Expr:
    return b.op("subtract", x, clamp(b, x, -lambd, lambd))


def _hard_shrink(b: Builder, node: fx.Node, x: Expr, lambd: float = 0.5) -> Expr:
    inside = b.binary("less_equal", b.op("abs", x), lambd)
    return b.op("where", inside, b.constant(0, dtype(x)), x)


def _threshold(b: Builder, node: fx.Node, x: Expr, threshold: float, value: float) -> Expr:
    return b.op("where", b.binary("less_equal", x, threshold), b.constant(value, dtype(x)), x)


def _prelu(b: Builder, node: fx.Node, x: Expr, weight: Expr) -> Expr:
    sizes = [1] * len(node.meta["val"].shape)
    if len(sizes) > 1:
        sizes[1] = -1
    slope = b.op("reshape", weight, [int(weight.ty.shape[0]) if s == -1 else s for s in sizes])
    return b.op("where", b.binary("greater", x, 0), x, b.op("multiply", x, slope))


def _glu(b: Builder, node: fx.Node, x: Expr, dim: int = -1) -> Expr:
    from edgecc.targets.tvm_cpu.lowering.slicing import slice_axis

    axis = dim % len(node.meta["val"].shape)
    half = b.shape(node)
    gate = slice_axis(b, x, axis, half[axis], half)
    return b.op("multiply", slice_axis(b, x, axis, 0, half), b.op("sigmoid", gate))


def _reciprocal(b: Builder, node: fx.Node, x: Expr) -> Expr:
    return b.binary("divide", 1.0, b.cast(x, result_dtype(node)))


def _square(b: Builder, node: fx.Node, x: Expr) -> Expr:
    return b.op("multiply", x, x)


def _round_decimals(b: Builder, node: fx.Node, x: Expr, decimals: int) -> Expr:
    power = 10.0 ** abs(decimals)
    first, last = ("multiply", "divide") if decimals >= 0 else ("divide", "multiply")
    return b.binary(last, b.op("round", b.binary(first, x, power)), power)


def _fraction(b: Builder, node: fx.Node, x: Expr) -> Expr:
    return b.op("subtract", x, b.op("trunc", x))


def _refuse_integer(node: fx.Node) -> str | None:
    return None if fake(arguments_of(node)["x"]).is_floating_point() else "integer input"


def _refuse_training(node: fx.Node) -> str | None:
    arguments = arguments_of(node)
    return "dropout in training mode" if arguments["train"] and arguments["p"] else None


HANDLERS: Handlers = {
    aten.sqrt.default: _function("sqrt"),
    aten.rsqrt.default: _function("rsqrt"),
    aten.exp.default: _function("exp"),
    aten.log.default: _function("log"),
    aten.sin.default: _function("sin"),
    aten.cos.default: _function("cos"),
    aten.tan.default: _function("tan"),
    aten.asin.default: _function("asin"),
    aten.acos.default: _function("acos"),
    aten.atan.default: _function("atan"),
    aten.sinh.default: _function("sinh"),
    aten.cosh.default: _function("cosh"),
    aten.asinh.default: _function("asinh"),
    aten.acosh.default: _function("acosh"),
    aten.atanh.default: _function("atanh"),
    aten.tanh.default: _function("tanh"),
    aten.erf.default: _function("erf"),
    aten.sigmoid.default: _function("sigmoid"),
    aten.neg.default: _function("negative"),
    aten.abs.default: _function("abs"),
    aten.sign.default: _function("sign"),
    aten.relu.default: _function("nn.relu"),
    aten.silu.default: _function("nn.silu"),
    aten.expm1.default: _intrinsic("expm1"),
    aten.log1p.default: _intrinsic("log1p"),
    aten.exp2.default: _extern("exp2"),
    aten.log2.default: _extern("log2"),
    aten.log10.default: _extern("log10"),
    aten.erfc.default: _extern("erfc"),
    aten.floor.default: _rounding("floor"),
    aten.ceil.default: _rounding("ceil"),
    aten.trunc.default: _rounding("trunc"),
    aten.round.default: _rounding("round"),
    **handlers(_round_decimals, aten.round.decimals, refuse=_refuse_integer),
    **handlers(_fraction, aten.frac.default),
    **handlers(_identity, aten.contiguous.default, aten.alias.default, aten.clone.default, aten.positive.default),
    **handlers(_identity, aten.detach.default, aten.detach_.default, aten.lift_fresh_copy.default, aten.lift_fresh.default),
    **handlers(_identity, aten.dropout.default, aten.feature_dropout.default, refuse=_refuse_training),
    **handlers(_convert, aten.to.dtype, aten.to.device, aten.to.dtype_layout, aten.to.other, aten._to_copy.default, aten.type_as.default),
    **handlers(_relu6, aten.relu6.default),
    **handlers(_gelu, aten.gelu.default),
    **handlers(_leaky_relu, aten.leaky_relu.default),
    **handlers(_hard_sigmoid, aten.hardsigmoid.default),
    **handlers(_hard_swish, aten.hardswish.default),
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
    **handlers(_reciprocal, aten.reciprocal.default),
    **handlers(_square, aten.square.default),
}
