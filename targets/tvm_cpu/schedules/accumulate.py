"""Accumulators: how two values of a reduction become one."""

from __future__ import annotations

import functools
from typing import Any

from edgecc.targets.tvm_cpu.schedules.code import Buffer, Code, Expr, index
from edgecc.targets.tvm_cpu.schedules.core import Core


@functools.cache
def allow_vectors_of_isnan() -> None:
    """Let TVM make vectors of loops with `isnan`, which it would take apart, since it knows nothing of that function."""
    import tvm

    tvm.ir.register_op_attr("tirx.isnan", "TVectorizable", True)


def combined(combine: str, a: Expr, b: Expr, core: Core) -> Expr:
    """`sum`, `prod`, `max` or `min` of two values; an extreme of floats is NaN where one of them is, as in PyTorch."""
    from tvm import tirx

    from edgecc.targets.tvm_cpu.vector_math.extremes import nan_max, nan_min

    if combine == "sum":
        return a + b
    if combine == "prod":
        return a * b
    if str(a.ty.dtype).startswith(("float", "bfloat")):
        return (nan_max if combine == "max" else nan_min)(a, b, core.arch)
    return (tirx.max if combine == "max" else tirx.min)(a, b)


def accumulate(code: Code, combine: str | None, parts: Buffer, place: Expr, term: Expr, held: tuple[Buffer, Expr], core: Core) -> None:
    """Combine an element of `parts` with a term; without a way to combine, the term is what the element becomes.

    `held`: an element of memory for a term of which code would be generated twice. It is no variable, since TVM forgets
    the value of one where it takes a vector loop apart.
    """
    if combine in ("max", "min") and str(term.ty.dtype).startswith("float"):
        memory, at = held
        code.store(memory, [at], term)
        term = memory[(at,)]
    code.store(parts, [place], term if combine is None else combined(combine, parts[(place,)], term, core))


def folded(code: Code, combine: str, parts: Buffer, count: int, lanes: int, core: Core) -> None:
    """Combine `count` vectors of `parts` into its first element, halving them step by step."""
    vectors = count
    while vectors > 1:
        half = (vectors + 1) // 2
        for i in range(vectors - half):
            with code.loop("l", lanes, "vector") as lane:
                place = index(i * lanes) + lane
                code.store(parts, [place], combined(combine, parts[(place,)], parts[(index((half + i) * lanes) + lane,)], core))
        vectors = half
    while lanes > 1:
        lanes //= 2
        with code.loop("l", lanes, "vector") as lane:
            code.store(parts, [lane], combined(combine, parts[(lane,)], parts[(lane + lanes,)], core))


def fill(code: Code, parts: Buffer, count: int, lanes: int, value: Any) -> None:
    """Set `count` vectors to one value."""
    for i in range(count):
        with code.loop("l", lanes, "vector") as lane:
            code.store(parts, [index(i * lanes) + lane], value)
