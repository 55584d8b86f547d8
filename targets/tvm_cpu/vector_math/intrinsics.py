"""Intrinsics: the rules by which TVM lowers tirx.exp and its like to our expressions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from edgecc.targets.tvm_cpu.vector_math import error_function, exponential, logarithm, requantization
from edgecc.targets.tvm_cpu.vector_math.terms import Expr

Function = Callable[[Expr, str], Expr]

FUNCTIONS: dict[str, Function] = {
    "exp": exponential.exp,
    "expm1": exponential.expm1,
    "sigmoid": exponential.sigmoid,
    "tanh": exponential.tanh,
    "erf": error_function.erf,
    "gelu": error_function.gelu,
    "log": logarithm.log,
    "log1p": logarithm.log1p,
}
_OURS = {  # operators that TVM does not have
    "expm1": "exp(x) - 1",
    "gelu": "x / 2 (1 + erf(x / sqrt 2))",
    "nibble": "the lower (0) or the upper (1) four bits of a byte, with their sign",
    "requantize": "clamp(z + x m / 2^(31+s), low, high), rounded half upwards",
}
_LEVEL = 199  # above TVM's own rules
_PURE = 1  # tvm::tirx::CallEffectKind::kPure


@functools.cache
def install() -> None:
    """Make tirx.exp, expm1, sigmoid, tanh, erf, gelu, log and log1p of float32 our polynomials in every LLVM build from now on.

    The operators may be called on vectors. Float64 stays with the C library, float16 is computed in float32. The order of
    evaluation is that of the architecture of `tvm.target.Target.current()`: compile inside `with target:`.

    No fast-math flag is set, and none is wanted: `nnan`, `ninf` and `nsz` would lose the NaN, infinities and zeros that
    the kernels keep on purpose, and `reassoc` the reductions of the range; the schedules write their vector accumulators
    themselves. Multiplications and additions become FMAs without a flag: TVM's LowerIntrin writes `a * b + c` as
    llvm.fmuladd, and LLVM fuses what is left while it selects instructions (also `c - a * b`), on CPUs that have FMA.
    """
    import tvm
    from tvm import tirx

    for name, meaning in _OURS.items():
        if f"tirx.{name}" not in tvm.ir.Op.list_op_names():
            tvm.ir._ffi_api.RegisterOp(f"tirx.{name}", meaning)
            tvm.ir.Op.get(f"tirx.{name}").set_attr("TCallEffectKind", _PURE)
    for name, function in FUNCTIONS.items():
        operator = tvm.ir.Op.get(f"tirx.{name}")
        operator.set_attr("TVectorizable", True, _LEVEL)
        tirx.register_intrin_lowering(operator.name, target="llvm", f=_rule(name, function, _known_rule(operator)), level=_LEVEL)
    for name, rule in (("requantize", _requantize), ("nibble", _nibble)):
        operator = tvm.ir.Op.get(f"tirx.{name}")
        operator.set_attr("TVectorizable", True, _LEVEL)
        tirx.register_intrin_lowering(operator.name, target="llvm", f=rule, level=_LEVEL)


def call(name: str, x: Expr) -> Expr:
    """The operator of one of `FUNCTIONS` applied to x, which is a float of any width."""
    from tvm import tirx

    install()
    return tirx.call_intrin(x.ty.dtype, f"tirx.{name}", x)


def requantize(x: Expr, multiplier: Expr, step: requantization.Step) -> Expr:
    """The code of one int32; see `requantization.requantize`."""
    from tvm import tirx

    install()
    numbers = (tirx.const(v, "int32") for v in (step.shift, step.zero, step.low, step.high))
    return tirx.call_intrin(step.dtype, "tirx.requantize", x, multiplier, *numbers)


def _requantize(call: Any) -> Expr:
    x, multiplier, *rest = call.args
    shift, zero, low, high = (int(getattr(v, "value", v)) for v in rest)  # of broadcasts, where the operands are vectors
    step = requantization.Step(shift, zero, low, high, str(call.ty.dtype).partition("x")[0])
    return requantization.requantize(x, multiplier, step, _architecture())


def nibble(byte: Expr, half: Expr) -> Expr:
    """Four bits of an int8 as int32; see `schedules.weight_form`, which is what makes code of it."""
    from tvm import tirx

    install()
    return tirx.call_intrin("int32", "tirx.nibble", byte, half)


def _nibble(call: Any) -> Expr:
    """Where nothing else took it: a shift by a number that is known when it runs."""
    from tvm import tirx

    byte, half = call.args
    wide = tirx.Cast("int32", byte)
    up = tirx.const(28, "int32") - tirx.Cast("int32", half) * tirx.const(4, "int32")
    return (wide << up) >> tirx.const(28, "int32")


def _known_rule(operator: Any) -> Callable[[Any], Expr] | None:
    """TVM's own rule for LLVM."""
    return operator.get_attr("llvm.FLowerIntrinsic") if operator.has_attr("llvm.FLowerIntrinsic") else None


def _rule(name: str, function: Function, known: Callable[[Any], Expr] | None) -> Callable[[Any], Expr]:
    def lower(call: Any) -> Expr:
        from tvm import tirx

        (x,) = call.args
        dtype = x.ty.dtype
        lanes = int(dtype.lanes)
        if str(dtype).startswith("float32"):
            return function(x, _architecture())
        if str(dtype).startswith("float16"):
            wide = "float32" if lanes == 1 else f"float32x{lanes}"
            return tirx.Cast(dtype, function(tirx.Cast(wide, x), _architecture()))
        if known:
            return known(call)
        if lanes > 1:  # the C library knows no vectors
            scalars = [tirx.call_intrin("float64", call.op.name, tirx.Shuffle([x], [tirx.const(i, "int32")])) for i in range(lanes)]
            return tirx.Shuffle(scalars, [tirx.const(i, "int32") for i in range(lanes)])
        if name == "gelu":
            return x * 0.5 * (tirx.erf(x * 0.5**0.5) + 1.0)
        return tirx.call_pure_extern(dtype, "expm1", x) if name == "expm1" else call  # else TVM's default rule follows

    return lower


def _architecture() -> str:
    """Of the current target, `""` without one."""
    import tvm

    target = tvm.target.Target.current(allow_none=True)
    return str(target.attrs.get("mtriple", "")).partition("-")[0] if target else ""
