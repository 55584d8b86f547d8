"""Weight forms: a factor of a sum of products of floats that is stored as integers, and how it becomes a float.

`code`, or `code * scale` or `code * scale + shift` with a scale for each group of the depth. A byte holds one code, or two of
four bits, which the operator `nibble` takes out of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgecc.targets.tvm_cpu.schedules.code import Expr


@dataclass(frozen=True)
class WeightForm:
    """`load`: of a byte. `half`: which of two codes in it, None where it is one. `scale`, `shift`: loads, None where there are none."""

    load: Any
    half: Expr | None
    scale: Any | None
    shift: Any | None

    @property
    def density(self) -> int:
        """Codes in a byte."""
        return 1 if self.half is None else 2


def weight_form(factor: Expr) -> WeightForm | None:
    """The form of a factor; None for one that is not stored as integers."""
    import tvm
    from tvm import tirx

    scale = shift = None
    if isinstance(factor, tirx.Add) and _is_load(factor.b):
        factor, shift = factor.a, factor.b
    if isinstance(factor, tirx.Mul) and _is_load(factor.b):
        factor, scale = factor.a, factor.b
    if not isinstance(factor, tirx.Cast) or str(factor.ty.dtype) != "float32" or (shift is not None and scale is None):
        return None
    code, half = factor.value, None
    if isinstance(code, tvm.ir.Call) and getattr(code.op, "name", "") == "tirx.nibble":
        code, half = code.args
    return WeightForm(code, half, scale, shift) if _is_load(code) and str(code.ty.dtype) == "int8" else None


def nibble(byte: Expr, half: int, lanes: int) -> Expr:
    """The lower (0) or the upper (1) four bits of int8 bytes, with their sign, as int32."""
    from tvm import tirx

    wide = tirx.Cast("int32" if lanes == 1 else f"int32x{lanes}", byte)

    def number(value: int) -> Expr:
        constant = tirx.const(value, "int32")
        return constant if lanes == 1 else tirx.Broadcast(constant, lanes)

    return (wide >> number(4)) if half else (wide << number(28)) >> number(28)


def _is_load(value: Expr) -> bool:
    import tvm

    return isinstance(value, tvm.ir.TensorLoad)
