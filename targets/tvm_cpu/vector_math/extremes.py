"""Maximum and minimum that keep a NaN, in the fewest instructions of each architecture.

PyTorch's relu, clamp, maximum and minimum give NaN where an operand is NaN. As comparisons that is
`Select(x < y || isnan(y), y, x)`: four instructions, and two where y is a number. ARM has the function itself (FMAX;
it also takes +0 to be above -0, where the comparison keeps whichever zero stands last). x86 has none, but its MAXPS
gives the second operand when either is NaN, which is the comparison with a number, in one instruction.
"""

from __future__ import annotations

from typing import Any

from edgecc.targets.tvm_cpu.vector_math.terms import Expr


def nan_max(x: Expr, y: Expr, arch: str) -> Expr:
    """The larger of x and y, NaN where one is. Floats of one type. `arch`: as in `machines.CPUS`."""
    return _extreme(x, y, arch, "maximum")


def nan_min(x: Expr, y: Expr, arch: str) -> Expr:
    """The smaller of x and y, NaN where one is. Floats of one type."""
    return _extreme(x, y, arch, "minimum")


def select_to_max(value: Expr, arch: str) -> Expr:
    """The expression with each selection that is a maximum or minimum as `nan_max` and `nan_min` write it.

    Those are `Select(x < y, y, x)` with a number on one side, and `Select(x < y || isnan(y), y, x)` with any y; TVM's
    own Max and Min, which promise nothing about NaN, become them too where that adds no instruction.
    """
    import tvm_ffi
    from tvm import tirx

    def select(node: Any) -> Expr:
        found = _operands(node)
        return _extreme(*found[1:], arch, found[0]) if found else node

    def own(node: Any) -> Expr:
        if not _is_float(node) or not (_has_maximum(arch) or _number(node.a) or _number(node.b)):
            return node
        return _extreme(node.a, node.b, arch, "maximum" if isinstance(node, tirx.Max) else "minimum")

    return tvm_ffi.structural_map(value, [(tirx.Select, select), ((tirx.Max, tirx.Min), own)])


def _extreme(x: Expr, y: Expr, arch: str, name: str) -> Expr:
    from tvm import tirx

    if _has_maximum(arch):
        return tirx.call_llvm_pure_intrin(x.ty.dtype, f"llvm.{name}", x, y)
    if _number(x):
        x, y = y, x
    loses = x < y if name == "maximum" else x > y
    return tirx.Select(loses if _number(y) else tirx.any(loses, tirx.isnan(y)), y, x)


def _operands(node: Any) -> tuple[str, Expr, Expr] | None:
    """The extreme that a selection is, and what of; None for any other."""
    from tvm import tirx

    comparison, y, x = node.condition, node.true_value, node.false_value
    if not _is_float(node):
        return None
    keeps_nan = _number(y)
    if isinstance(comparison, tirx.Or):
        comparison, test = comparison.a, comparison.b
        keeps_nan = _same(test, tirx.isnan(y))
    if not keeps_nan or not isinstance(comparison, (tirx.LT, tirx.LE, tirx.GT, tirx.GE)):
        return None
    rising = isinstance(comparison, (tirx.LT, tirx.LE))
    if _same(comparison.a, x) and _same(comparison.b, y):
        return "maximum" if rising else "minimum", x, y
    if _same(comparison.a, y) and _same(comparison.b, x):
        return "minimum" if rising else "maximum", x, y
    return None


def _has_maximum(arch: str) -> bool:
    return arch.startswith(("aarch64", "arm"))


def _number(value: Expr) -> bool:
    """A constant that is not NaN, in one lane or all."""
    from tvm import tirx

    constant = value.value if isinstance(value, tirx.Broadcast) else value
    return isinstance(constant, tirx.FloatImm) and constant.value == constant.value


def _is_float(value: Expr) -> bool:
    return str(value.ty.dtype).startswith("float")


def _same(a: Expr, b: Expr) -> bool:
    import tvm_ffi

    return bool(tvm_ffi.structural_equal(a, b))
