"""Polynomial evaluation in the order that costs an architecture the fewest instructions."""

from __future__ import annotations

from collections.abc import Sequence

from edgecc.targets.tvm_cpu.vector_math.terms import Expr, Terms


def polynomial(t: Terms, x: Expr, coefficients: Sequence[float], arch: str) -> Expr:
    """`coefficients[0] + coefficients[1] x + ...`. x is used more than once, so it must be named.

    Horner's rule is one FMA a coefficient. NEON's FMA overwrites its addend, so a constant there costs a copy: Horner's
    rule takes twice as many instructions, in one long chain. There blocks of four terms in powers of x are joined by
    Horner's rule in x^4 (Paterson and Stockmeyer 1973), where half of the addends are values that die, and most
    coefficients are factors, which are lanes of a few registers. The last step is Horner's own, so that it alone rounds a
    number of the size of the result.
    """
    if arch != "aarch64" or len(coefficients) < 5:
        return _horner(t, x, [t.number(c) for c in coefficients])
    x2 = t.name(x * x)
    powers = [x, x2, t.name(x2 * x)]
    x4 = t.name(x2 * x2)
    first, *others = coefficients
    factors = iter(t.by_lane([c for number, c in enumerate(others) if number % 4 or number == len(others) - 1]))
    terms = []
    for start in range(0, len(others), 4):
        value = t.number(others[start]) if start < len(others) - 1 else next(factors)
        for power, _ in zip(powers, others[start + 1 : start + 4], strict=False):
            value = t.fma(power, next(factors), value)
        terms.append(value)
    return t.fma(_horner(t, x4, terms), x, first)


def _horner(t: Terms, x: Expr, terms: Sequence[Expr]) -> Expr:
    value = terms[-1]
    for term in reversed(terms[:-1]):
        value = t.fma(value, x, term)
    return value
