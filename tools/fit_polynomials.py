"""Fit the polynomials of targets/tvm_cpu/vector_math and print their coefficients: python tools/fit_polynomials.py

Lawson's iteration (least squares whose weights grow where the error is large) tends to the minimax polynomial (Lawson
1961; Muller, "Elementary Functions", 3rd edition, chapter 3). Coefficients are rounded to float32 one after another,
the lowest first, and the rest is fitted again each time, so that rounding costs next to nothing (Muller, section 3.7).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mpmath
import numpy as np
from mpmath import erf, exp, expm1, log, log1p, sqrt

Real = Callable[[Any], Any]
Array = np.ndarray[Any, np.dtype[np.float64]]
NODES = 600
ROUNDS = 300


def fit(f: Real, scale: Real, low: float, high: float, degree: int, fixed: Sequence[float] = ()) -> tuple[list[float], float]:
    """Coefficients of p, lowest first, with the least max |p(x) - f(x)| scale(x) over [low, high], and that maximum.

    `fixed`: coefficients that are given, lowest first.
    """
    nodes = [(low + high) / 2 + (high - low) / 2 * mpmath.cos(mpmath.pi * (i + 0.5) / NODES) for i in range(NODES)]
    x, y, weights = (np.array([float(g(n)) for n in nodes]) for g in (lambda n: n, f, scale))
    known = [float(np.float32(c)) for c in fixed]
    while len(known) <= degree:
        free = _lawson(x, y - _evaluate(known, x), weights, len(known), degree)
        known.append(float(np.float32(free[0])))
    return known, float(np.abs((_evaluate(known, x) - y) * weights).max())


def _lawson(x: Array, y: Array, scale: Array, lowest: int, degree: int) -> Array:
    """Coefficients of x^lowest .. x^degree."""
    span = np.abs(x).max()
    powers = np.arange(lowest, degree + 1)
    basis, wanted = (x[:, None] / span) ** powers * scale[:, None], y * scale
    weight, best, least = np.ones_like(x), np.zeros(len(powers)), np.inf
    for _ in range(ROUNDS):
        root = np.sqrt(weight)
        solution = np.linalg.lstsq(basis * root[:, None], wanted * root, rcond=None)[0]
        error = np.abs(basis @ solution - wanted)
        if error.max() < least:
            best, least = solution, error.max()
        weight *= error + 1e-3 * error.max()
        weight /= weight.sum()
    return np.asarray(best / span**powers)


def _evaluate(coefficients: Sequence[float], x: Array) -> Array:
    return np.asarray(np.polynomial.polynomial.polyval(x, np.array([*coefficients, 0.0])))


def _erf_ratio(end: float, inner: float, outer: float, less: float) -> tuple[Real, Real]:
    """erf(x / inner) / (outer x) - less over z = 2 (x / end)^2 - 1, and x at z."""

    def x_at(z: Any) -> Any:
        return end * sqrt((z + 1) / 2)

    return lambda z: erf(x_at(z) / inner) / (outer * x_at(z)) - less, x_at


def main() -> None:
    mpmath.mp.dps = 40
    half = float(log(2)) / 2 * 1.001  # the reduction rounds, so r goes a little beyond
    ratio, _ = _erf_ratio(3.85, 1, 1, 0.25)
    gelu, x_at = _erf_ratio(3.6 * 2**0.5, sqrt(2), 2, 0)
    fits = {
        "exp: 1 + r + r^2 p(r)": fit(exp, lambda r: exp(-r), -half, half, 6, (1.0, 1.0)),
        "expm1: r + r^2 p(r)": fit(lambda r: (expm1(r) - r) / r**2, lambda r: r**2 / expm1(r), -half, half, 4, (0.5,)),
        "erf": fit(ratio, lambda z: 1 / (ratio(z) + 0.25), -1, 1, 15),
        "gelu": fit(gelu, lambda z: 2 * x_at(z) / (1 + erf(x_at(z) / sqrt(2))), -1, 1, 13),
        "log: f + f^2 p(f)": fit(lambda f: (log1p(f) - f) / f**2, lambda f: f**2 / log1p(f), -1 / 3, 1 / 3, 7, (-0.5,)),
    }
    for name, (coefficients, error) in fits.items():
        print(f"{name}    relative error {error * 2**24:.2f} * 2^-24\n    {coefficients}")


if __name__ == "__main__":
    main()
