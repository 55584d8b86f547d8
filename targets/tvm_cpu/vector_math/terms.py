"""Terms: TIR expressions of one shape, a scalar or a vector of any number of lanes, as formulas are written with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Expr = Any  # tvm.ir.Expr

_SIGN = -(2**31)


class Terms:
    """The formula under construction for operands of the type of `x`: its constants, and the values that it names.

    A value that is used twice must be named, since TIR has trees only: code of an unnamed one is generated twice.
    """

    def __init__(self, x: Expr) -> None:
        self.dtype = x.ty.dtype
        self.lanes = int(self.dtype.lanes)
        self.integers = "int32" if self.lanes == 1 else f"int32x{self.lanes}"
        self._named: list[tuple[Expr, Expr]] = []

    def name(self, value: Expr) -> Expr:
        from tvm import tirx

        variable = tirx.Var("t", value.ty.dtype)
        self._named.append((variable, value))
        return variable

    def done(self, value: Expr) -> Expr:
        """The value inside the definitions of everything that was named."""
        from tvm import tirx

        for variable, bound in reversed(self._named):
            value = tirx.Let(variable, bound, value)
        return value

    def number(self, value: float) -> Expr:
        return self._splat(value, "float32")

    def by_lane(self, values: Sequence[float]) -> list[Expr]:
        """Numbers that are factors, four in a register: a multiply-add of AArch64 takes one lane of it for all of its own.

        The fence keeps LLVM from seeing constants: it would give each a register of its own and, where there are too few,
        make it again from its bits in every iteration. It costs no instruction.
        """
        from tvm import tirx

        found: list[Expr] = []
        for start in range(0, len(values), 4):
            four = (*values[start : start + 4], 0.0, 0.0, 0.0)[:4]
            vector = tirx.Shuffle([tirx.const(v, "float32") for v in four], [tirx.const(i, "int32") for i in range(4)])
            held = self.name(tirx.call_llvm_pure_intrin("float32x4", "llvm.arithmetic.fence", vector))
            lanes = [tirx.Shuffle([held], [tirx.const(i, "int32")]) for i in range(4)]
            found += [lane if self.lanes == 1 else tirx.Broadcast(lane, self.lanes) for lane in lanes]
        return found[: len(values)]

    def integer(self, value: int) -> Expr:
        return self._splat(value, "int32")

    def fma(self, a: Expr, b: Expr | float, c: Expr | float) -> Expr:
        """`a b + c`, rounded once where the CPU can."""
        from tvm import tirx

        return tirx.call_intrin(self.dtype, "tirx.fma", a, self._term(b), self._term(c))

    def bits(self, x: Expr) -> Expr:
        """The int32 that float32 x is stored as."""
        from tvm import tirx

        return tirx.reinterpret(self.integers, x)

    def floats(self, bits: Expr) -> Expr:
        """The float32 that is stored as an int32."""
        from tvm import tirx

        return tirx.reinterpret(self.dtype, bits)

    def minus_abs(self, x: Expr) -> Expr:
        return self.floats(self.bits(x) | self.integer(_SIGN))

    def with_sign_of(self, x: Expr, magnitude: Expr) -> Expr:
        """The magnitude, which is positive or has the sign of x already, with the sign of x."""
        return self.floats(self.bits(magnitude) | (self.bits(x) & self.integer(_SIGN)))

    def intrinsic(self, name: str, *operands: Expr) -> Expr:
        """A function of LLVM over operands of this type."""
        from tvm import tirx

        return tirx.call_llvm_pure_intrin(self.dtype, name, *operands)

    def _term(self, value: Expr | float) -> Expr:
        return self.number(value) if isinstance(value, float) else value

    def _splat(self, value: float, dtype: str) -> Expr:
        from tvm import tirx

        constant = tirx.const(value, dtype)
        return constant if self.lanes == 1 else tirx.Broadcast(constant, self.lanes)
