"""Division of vectors without the divider."""

from __future__ import annotations

from edgecc.targets.tvm_cpu.vector_math.terms import Expr, Terms


def quotient(t: Terms, x: Expr, y: Expr, arch: str) -> Expr:
    """x / y, for finite x and 2^-20 < y < 2^20, to 1 ulp; NaN where one of them is.

    A vector division occupies a Cortex-A72 for 34 cycles. There an estimate of 1 / y of 8 bits takes one step of
    Newton's to 16 bits, and the residual of the quotient corrects the rest (Markstein 1990).
    """
    if arch != "aarch64" or t.lanes not in (1, 2, 4):
        return x / y
    x, y = t.name(x), t.name(y)
    estimate = t.name(t.intrinsic("llvm.aarch64.neon.frecpe", y))
    reciprocal = t.name(estimate * t.intrinsic("llvm.aarch64.neon.frecps", y, estimate))
    q = t.name(x * reciprocal)
    return t.fma(t.fma(y * t.number(-1.0), q, x), reciprocal, q)
