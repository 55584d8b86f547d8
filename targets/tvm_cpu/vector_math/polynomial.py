"""Polynomial evaluation in the order that costs an architecture the fewest instructions."""

from __future__ import annotations

from collections.abc import Sequence

from edgecc.targets.tvm_cpu.vector_math.terms import Expr, Terms


def polynomial(t: Terms, x: Expr, coefficients: Sequence[float], arch: str) -> Expr:
    """`coefficients[0] + coefficients[1] x + ...`. x is used more than once, so it must be named.

    Horner's rule is one FMA a coefficient. NEON's FMA overwrites its addend, so a constant there costs a copy: Horner's
    rule takes twice as many instructions, in one long chain. There blocks of four terms in powers of x are joined by
    Horner's rule in x^4 (Paterson and Stockmeyer 1973), where half of the addends are values that die. The last step is
    Horner's own, so that it alone rounds a number of the size of the result.
    """
    if arch != "aarch64" or len(coefficients) < 5:
        return _horner(t, x, [t.number(c) for c in coefficients])
    x2 = t.name(x * x)
    powers = [x, x2, t.name(x2 * x)]
    x4 = t.name(x2 * x2)
    rest = _horner(t, x4, [_block(t, powers, coefficients[i : i + 4]) for i in range(1, len(coefficients), 4)])
    return t.fma(rest, x, coefficients[0])


def _horner(t: Terms, x: Expr, terms: Sequence[Expr]) -> Expr:
    value = terms[-1]
    for term in reversed(terms[:-1]):
        value = t.fma(value, x, term)
    return value


def _block(t: Terms, powers: Sequence[Expr], coefficients: Sequence[float]) -> Expr:
    value = t.number(coefficients[0])
    for power, coefficient in zip(powers, coefficients[1:], strict=False):
        value = t.fma(power, coefficient, value)
    return value
