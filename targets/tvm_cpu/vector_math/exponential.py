"""The exponential and what is made of it: exp, expm1, the logistic sigmoid, the hyperbolic tangent."""

from __future__ import annotations

from edgecc.targets.tvm_cpu.vector_math.division import quotient
from edgecc.targets.tvm_cpu.vector_math.extremes import nan_max, nan_min
from edgecc.targets.tvm_cpu.vector_math.polynomial import polynomial
from edgecc.targets.tvm_cpu.vector_math.terms import Expr, Terms

_LN2 = (0.693359375, -2.12194440054690582e-4)  # Cody and Waite 1980: the product of an integer and the first is exact
_LOG2E = 1.4426950408889634
_ROUND = 1.5 * 2**23  # a float32 of this size has no fraction, and an integer added to it stands in its low bits
_EXP = (0.4999999403953552, 0.1666652113199234, 0.04166827350854874, 0.00836868491023779, 0.001382010872475803)
_EXPM1 = (0.5, 0.1666654795408249, 0.04166683927178383, 0.00836612656712532, 0.0013899566838517785)


def exp(x: Expr, arch: str) -> Expr:
    """e^x as 2^n e^r with |r| <= ln 2 / 2, scaled in two steps so that no result, denormal or infinite, needs a case."""
    t = Terms(x)
    inside = t.name(nan_min(nan_max(x, t.number(-104.5), arch), t.number(89.0), arch))
    n, r = _reduce(t, inside, 2 * 127)
    first = t.name(n >> t.integer(1))
    value = _exp_of_small(t, r, arch) * t.floats(first << t.integer(23)) * t.floats((n - first) << t.integer(23))
    return t.done(value)


def sigmoid(x: Expr, arch: str) -> Expr:
    """`1 / (1 + e^-x)`, for a negative x `e^x / (1 + e^x)`, so that nothing overflows and no small result is lost."""
    from tvm import tirx

    t = Terms(x)
    x = t.name(x)
    n, r = _reduce(t, t.name(nan_max(t.minus_abs(x), t.number(-104.5), arch)), 127 + 24)
    z = t.name(_exp_of_small(t, r, arch) * t.floats(n << t.integer(23)) * t.number(2.0**-24))
    top = tirx.Select(x < t.number(0.0), z, t.number(1.0))
    return t.done(quotient(t, top, z + t.number(1.0), arch))


def expm1(x: Expr, arch: str) -> Expr:
    """`2^n (e^r - 1) + (2^n - 1)`, where the second term is exact or all that counts."""
    t = Terms(x)
    x = t.name(x)
    inside = t.name(nan_min(nan_max(x, t.number(-18.0), arch), t.number(89.0), arch))
    n, r = _reduce(t, inside, 127 - 1)
    half = t.name(t.floats(n << t.integer(23)))  # of 2^n, which itself overflows before the result does
    value = t.name(t.fma(_expm1_of_small(t, r, arch), half, half - t.number(0.5)))
    return t.done(t.with_sign_of(x, value + value))


def tanh(x: Expr, arch: str) -> Expr:
    """`-e / (2 + e)` with `e = exp(-2 |x|) - 1`, which cannot exceed 1, and the sign of x."""
    t = Terms(x)
    x = t.name(x)
    inside = t.name(nan_max(t.minus_abs(x), t.number(-9.5), arch))
    n, r = _reduce(t, t.name(inside + inside), 127)
    scale = t.name(t.floats(n << t.integer(23)))
    e = t.name(t.fma(_expm1_of_small(t, r, arch), scale, scale - t.number(1.0)))
    return t.done(t.with_sign_of(x, quotient(t, t.number(0.0) - e, e + t.number(2.0), arch)))


def _reduce(t: Terms, x: Expr, bias: int) -> tuple[Expr, Expr]:
    """n + bias in the low 23 bits of an integer, and r, with x = n ln 2 + r and |r| <= ln 2 / 2. Both are named."""
    shifted = t.name(t.fma(x, _LOG2E, _ROUND + bias))
    n = t.name(shifted - t.number(_ROUND + bias))
    r = t.fma(n, -_LN2[1], t.fma(n, -_LN2[0], x))
    return t.name(t.bits(shifted)), t.name(r)


def _exp_of_small(t: Terms, r: Expr, arch: str) -> Expr:
    return t.fma(polynomial(t, r, _EXP, arch), t.name(r * r), r) + t.number(1.0)


def _expm1_of_small(t: Terms, r: Expr, arch: str) -> Expr:
    return t.fma(polynomial(t, r, _EXPM1, arch), t.name(r * r), r)
