"""Requantization: a sum of products in the steps of another scale, rounded once, the same on every CPU.

`floor((x m + 2^(30+s)) / 2^(31+s))`, half upwards: Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", CVPR 2018, section 2.2, with one rounding in place of two.
"""

from __future__ import annotations

from typing import Any

from edgecc.targets.tvm_cpu.vector_math.terms import Expr

_NEON = 4  # lanes of int32


def requantize(x: Expr, multiplier: Expr, shift: int, arch: str) -> Expr:
    """`x m / 2^(31+s)` as int32 for int32 x and `0 <= m < 2^31`; -7 <= s <= 30. The result must fit."""
    lanes = int(x.ty.dtype.lanes)
    if arch == "aarch64" and shift >= 1 and lanes % _NEON == 0:
        return _in_pieces(x, multiplier, shift)
    if shift >= 2:
        return _high_half(x, multiplier, shift)
    return _cast(x.ty.dtype, _wide(x) * _wide(multiplier) + _int64(1 << (30 + shift), lanes) >> _int64(31 + shift, lanes))


def _in_pieces(x: Expr, multiplier: Expr, shift: int) -> Expr:
    """SQDMULH, the floor of `x m / 2^31`, then SRSHL, which rounds: floors nest."""
    from tvm import tirx

    lanes = int(x.ty.dtype.lanes)
    back = tirx.Broadcast(tirx.const(-shift, "int32"), _NEON)
    parts = []
    for start in range(0, lanes, _NEON):
        a, m = (v if lanes == _NEON else _lanes([v], range(start, start + _NEON)) for v in (x, multiplier))
        product = tirx.call_llvm_pure_intrin("int32x4", "llvm.aarch64.neon.sqdmulh.v4i32", a, m)
        parts.append(tirx.call_llvm_pure_intrin("int32x4", "llvm.aarch64.neon.srshl.v4i32", product, back))
    return parts[0] if len(parts) == 1 else _lanes(parts, range(lanes))


def _high_half(x: Expr, multiplier: Expr, shift: int) -> Expr:
    """The high half of the product, then the rest of the shift with its rounding."""
    lanes = int(x.ty.dtype.lanes)
    high = _cast(x.ty.dtype, _wide(x) * _wide(multiplier) >> _int64(32, lanes))
    return high + _number(1 << (shift - 2), "int32", lanes) >> _number(shift - 1, "int32", lanes)


def _wide(x: Expr) -> Expr:
    lanes = int(x.ty.dtype.lanes)
    return _cast("int64" if lanes == 1 else f"int64x{lanes}", x)


def _cast(dtype: Any, x: Expr) -> Expr:
    from tvm import tirx

    return tirx.Cast(dtype, x)


def _int64(value: int, lanes: int) -> Expr:
    return _number(value, "int64", lanes)


def _number(value: int, dtype: str, lanes: int) -> Expr:
    from tvm import tirx

    constant = tirx.const(value, dtype)
    return constant if lanes == 1 else tirx.Broadcast(constant, lanes)


def _lanes(vectors: list[Expr], order: range) -> Expr:
    from tvm import tirx

    return tirx.Shuffle(vectors, [tirx.const(i, "int32") for i in order])
