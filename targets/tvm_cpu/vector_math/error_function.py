"""The error function, and GELU by it."""

from __future__ import annotations

from edgecc.targets.tvm_cpu.vector_math.extremes import nan_max, nan_min
from edgecc.targets.tvm_cpu.vector_math.polynomial import polynomial
from edgecc.targets.tvm_cpu.vector_math.terms import Expr, Terms

# erf(x) / x - 1/4 for |x| < 3.85, and erf(x / sqrt 2) / 2x for |x| < 3.6 sqrt 2, in z = a x^2 - 1 from -1 to 1.
_ERF_END = 3.85**2
_ERF = (
    0.11728480458259583,
    -0.1833014190196991,
    0.13621319830417633,
    -0.11038808524608612,
    0.090788833796978,
    -0.07315566390752792,
    0.056609153747558594,
    -0.041225213557481766,
    0.027689332142472267,
    -0.018048018217086792,
    0.012101233936846256,
    -0.006408527493476868,
    0.0018372717313468456,
    -0.0011925897561013699,
    0.0015358664095401764,
    -0.0005999357090331614,
)
_GELU_END = 2 * 3.6**2
_GELU = (
    0.13884469866752625,
    -0.06911634653806686,
    0.05084490776062012,
    -0.04023189842700958,
    0.03175335004925728,
    -0.024055115878582,
    0.017071537673473358,
    -0.01149599440395832,
    0.007520589046180248,
    -0.004135098308324814,
    0.001605602796189487,
    -0.000982158351689577,
    0.0009349783649668097,
    -0.00034982175566256046,
)


def erf(x: Expr, arch: str) -> Expr:
    t = Terms(x)
    x = t.name(x)
    # x / 4 apart: what is left of the ratio is below 1, where it rounds finer, and not negative, so infinities do not cancel.
    return t.done(_cut(t, t.fma(x, _ratio(t, x, _ERF, _ERF_END, arch), x * t.number(0.25)), -1.0, arch))


def gelu(x: Expr, arch: str) -> Expr:
    """`x (1/2 + erf(x / sqrt 2) / 2)`. Hendrycks and Gimpel 2016."""
    t = Terms(x)
    x = t.name(x)
    share = t.fma(x, _ratio(t, x, _GELU, _GELU_END, arch), 0.5)
    return t.done(x * _cut(t, share, 0.0, arch))


def _ratio(t: Terms, x: Expr, coefficients: tuple[float, ...], end: float, arch: str) -> Expr:
    """p(min(x^2, end)).

    One polynomial over the whole range needs neither a division nor a selection between pieces. It is one in a centred
    z, since powers of x^2 itself cancel each other. Beyond `end` it is a constant, and its product with x grows.
    """
    z = t.name(t.fma(nan_min(x * x, t.number(end), arch), 2 / end, -1.0))
    return polynomial(t, z, coefficients, arch)


def _cut(t: Terms, value: Expr, low: float, arch: str) -> Expr:
    return nan_min(nan_max(value, t.number(low), arch), t.number(1.0), arch)
