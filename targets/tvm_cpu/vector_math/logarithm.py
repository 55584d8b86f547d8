"""Natural logarithms: log and log1p."""

from __future__ import annotations

import math

from edgecc.targets.tvm_cpu.vector_math.polynomial import polynomial
from edgecc.targets.tvm_cpu.vector_math.terms import Expr, Terms

_LN2 = (0.693359375, -2.12194440054690582e-4)  # as in exponential.py
_TWO_THIRDS = 0x3F2AAAAB  # the bits of float32 2/3
_SMALLEST_NORMAL = 2.0**-126
_LOG = (
    -0.5,
    0.3333326578140259,
    -0.2500423789024353,
    0.2000793069601059,
    -0.1647232472896576,
    0.14042165875434875,
    -0.1512218564748764,
    0.13820789754390717,
)


def log(x: Expr, arch: str) -> Expr:
    """n ln 2 + log(1 + f) for x = 2^n (1 + f), 2/3 <= 1 + f < 4/3; a denormal x is scaled first."""
    from tvm import tirx

    t = Terms(x)
    x = t.name(x)
    small = x < t.number(_SMALLEST_NORMAL)
    bits = t.name(t.bits(tirx.Select(small, x * t.number(2.0**23), x)) - t.integer(_TWO_THIRDS))
    f = t.name(_significand(t, bits) - t.number(1.0))
    n = t.name(_exponent(t, bits) - tirx.Select(small, t.number(23.0), t.number(0.0)))
    value = tirx.Select(x == t.number(0.0), t.number(-math.inf), _log1p_of_small(t, f, n, arch))
    value = tirx.Select(x < t.number(0.0), t.number(math.nan), value)
    return t.done(tirx.Select(x < t.number(math.inf), value, x))


def log1p(x: Expr, arch: str) -> Expr:
    """log(1 + x) with what rounding 1 + x lost added to f."""
    from tvm import tirx

    t = Terms(x)
    x = t.name(x)
    whole = t.name(x + t.number(1.0))
    lost = x - (whole - t.number(1.0))
    bits = t.name(t.bits(whole) - t.integer(_TWO_THIRDS))
    exponent = tirx.min(bits >> t.integer(23), t.integer(60))  # beyond 2^60 nothing counts that was lost
    scale = t.floats((t.integer(127) - exponent) << t.integer(23))
    f = t.name(t.fma(lost, scale, _significand(t, bits) - t.number(1.0)))
    value = t.name(_log1p_of_small(t, f, t.name(_exponent(t, bits)), arch))
    value = tirx.Select(x == t.number(-1.0), t.number(-math.inf), t.with_sign_of(x, value))
    value = tirx.Select(x < t.number(-1.0), t.number(math.nan), value)
    return t.done(tirx.Select(x < t.number(math.inf), value, x))


def _significand(t: Terms, bits: Expr) -> Expr:
    return t.floats((bits & t.integer(0x7FFFFF)) + t.integer(_TWO_THIRDS))


def _exponent(t: Terms, bits: Expr) -> Expr:
    from tvm import tirx

    return tirx.Cast(t.dtype, bits >> t.integer(23))


def _log1p_of_small(t: Terms, f: Expr, n: Expr, arch: str) -> Expr:
    """n ln 2 + log(1 + f)."""
    tail = t.fma(t.name(f * f), polynomial(t, f, _LOG, arch), n * t.number(_LN2[1]))
    return t.fma(n, _LN2[0], f + tail)
