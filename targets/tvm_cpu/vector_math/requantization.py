"""Requantization: sums of products as codes of another scale, rounded once, the same on every CPU.

`clamp(z + floor((x m + 2^(30+s)) / 2^(31+s)), low, high)`, half upwards: Jacob et al., "Quantization and Training of Neural
Networks for Efficient Integer-Arithmetic-Only Inference", CVPR 2018, section 2.2, with one rounding in place of two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgecc.targets.tvm_cpu.vector_math.terms import Expr

_NEON = 4  # lanes of int32


@dataclass(frozen=True)
class Step:
    """`shift` is s above, -7 <= s <= 30; `dtype` int8 or uint8."""

    shift: int
    zero: int
    low: int
    high: int
    dtype: str


def requantize(x: Expr, multiplier: Expr, step: Step, arch: str) -> Expr:
    """The codes for int32 x and `0 <= multiplier < 2^31`, a scalar or a vector of any number of lanes."""
    lanes = int(x.ty.dtype.lanes)
    if arch == "aarch64" and step.shift >= 1 and lanes % _NEON == 0:
        return _neon(x, multiplier, step)
    zero = step.zero
    if step.shift >= 2:
        # the high half of the product, then the rest of the shift, with its rounding and, where there is room, the zero
        own = zero << step.shift - 1 if step.shift <= 20 else 0
        high = _high_half(x, multiplier, arch)
        rounded = high + _number((1 << step.shift - 2) + own, "int32", lanes) >> _number(step.shift - 1, "int32", lanes)
        zero = 0 if step.shift <= 20 else zero
    else:
        half, by = _number(1 << 30 + step.shift, "int64", lanes), _number(31 + step.shift, "int64", lanes)
        wide = _clamp(_wide(x) * _wide(multiplier) + half >> by, -(2**20), 2**20, "int64")
        rounded = _cast("int32", wide)
    moved = rounded + _number(zero, "int32", lanes) if zero else rounded
    return _cast(step.dtype, _clamp(moved, step.low, step.high, "int32"))


def _high_half(x: Expr, multiplier: Expr, arch: str) -> Expr:
    """`x m / 2^32` as int32, rounded down."""
    from tvm import tirx

    lanes = int(x.ty.dtype.lanes)
    if arch != "x86_64" or lanes < 4:
        return _cast("int32", _wide(x) * _wide(multiplier) >> _number(32, "int64", lanes))
    # VPMULDQ multiplies the even elements of two registers: the odd ones are moved there, and no element crosses a lane
    by = _number(32, "int64", lanes // 2)
    pairs = [tirx.reinterpret(f"int64x{lanes // 2}", v) for v in (x, multiplier)]
    even = (pairs[0] << by >> by) * (pairs[1] << by >> by)
    odd = (pairs[0] >> by) * (pairs[1] >> by)
    halves = [tirx.reinterpret(f"int32x{lanes}", v) for v in (even, odd)]
    return tirx.Shuffle(halves, [tirx.const(i + (lanes if i % 2 else 1), "int32") for i in range(lanes)])


def _neon(x: Expr, multiplier: Expr, step: Step) -> Expr:
    """SQDMULH, the floor of `x m / 2^31`, then SRSHL, which rounds: floors nest. SQXTN narrows and clamps."""
    from tvm import tirx

    lanes = int(x.ty.dtype.lanes)
    back = tirx.Broadcast(tirx.const(-step.shift, "int32"), _NEON)
    halves = []
    for start in range(0, lanes, _NEON):
        a, m = (v if lanes == _NEON else _lanes([v], range(start, start + _NEON)) for v in (x, multiplier))
        product = _call("int32x4", "sqdmulh.v4i32", a, m)
        halves.append(_call("int16x4", "sqxtn.v4i16", _call("int32x4", "srshl.v4i32", product, back)))
    parts = []
    for at in range(0, len(halves), 2):
        pair = halves[at : at + 2]
        eight = _lanes([pair[0], pair[-1]], range(8))
        moved = _call("int16x8", "sqadd.v8i16", eight, _number(step.zero, "int16", 8)) if step.zero else eight
        parts.append(_call(f"{step.dtype}x8", f"{'sqxtn' if step.dtype == 'int8' else 'sqxtun'}.v8i8", moved))
    codes = parts[0] if len(parts) == 1 else _lanes(parts, range(8 * len(parts)))
    codes = codes if lanes == 8 * len(parts) else _lanes([codes], range(lanes))
    least, most = (-128, 127) if step.dtype == "int8" else (0, 255)
    if step.low > least:
        codes = tirx.max(codes, _number(step.low, step.dtype, lanes))
    return tirx.min(codes, _number(step.high, step.dtype, lanes)) if step.high < most else codes


def _call(dtype: str, name: str, *operands: Expr) -> Expr:
    from tvm import tirx

    return tirx.call_llvm_pure_intrin(dtype, f"llvm.aarch64.neon.{name}", *operands)


def _clamp(x: Expr, low: int, high: int, dtype: str) -> Expr:
    from tvm import tirx

    lanes = int(x.ty.dtype.lanes)
    return tirx.max(tirx.min(x, _number(high, dtype, lanes)), _number(low, dtype, lanes))


def _wide(x: Expr) -> Expr:
    return _cast("int64", x)


def _cast(dtype: str, x: Expr) -> Expr:
    from tvm import tirx

    lanes = int(x.ty.dtype.lanes)
    return tirx.Cast(dtype if lanes == 1 else f"{dtype}x{lanes}", x)


def _number(value: int, dtype: str, lanes: int) -> Expr:
    from tvm import tirx

    constant = tirx.const(value, dtype)
    return constant if lanes == 1 else tirx.Broadcast(constant, lanes)


def _lanes(vectors: list[Any], order: range) -> Expr:
    from tvm import tirx

    return tirx.Shuffle(vectors, [tirx.const(i, "int32") for i in order])
