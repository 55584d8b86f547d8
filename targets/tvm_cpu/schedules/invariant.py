"""Invariants: what a loop would compute again and again, taken out of its expressions."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from edgecc.targets.tvm_cpu.schedules.code import Code, Expr, index
from edgecc.targets.tvm_cpu.schedules.stage import loads, variables

Definition = tuple[Any, Expr]


def hoisted(value: Expr, varying: Set[Any], moderate: Set[Any]) -> tuple[Expr, tuple[Definition, ...]]:
    """`value` in terms of new variables for its calls and quotients that depend on none of `varying`, and their values.

    A quotient by an invariant becomes a product with its reciprocal, which is off by one unit in the last place, where
    the reciprocal can neither overflow nor lose digits: where the divisor is a number of elements, or in `moderate`,
    the variables that lie between 1 and a number of elements. Loads stay: they may be guarded by a condition.
    """
    import tvm
    import tvm_ffi
    from tvm import tirx

    found: list[Definition] = []

    def name(expression: Expr) -> Any:
        for variable, known in found:
            if tvm_ffi.structural_equal(known, expression):
                return variable
        found.append((tirx.Var(f"fixed{len(found)}", str(expression.ty.dtype)), expression))
        return found[-1][0]

    def is_invariant(expression: Expr) -> bool:
        used = variables(expression)
        return bool(used) and not used & varying and not list(loads(expression))

    def call(node: Any) -> Any:
        plain = str(getattr(node.op, "name", "")).startswith("tirx.") and "if_then_else" not in node.op.name
        return name(node) if plain and is_invariant(node) else node

    def quotient(node: Any) -> Any:
        if is_invariant(node):
            return name(node)
        if is_invariant(node.b) and _is_moderate(node.b, moderate):
            return node.a * name(tirx.const(1, str(node.b.ty.dtype)) / node.b)
        return node

    return tvm_ffi.structural_map(value, [(tvm.ir.Call, call), (tirx.Div, quotient)]), tuple(found)


def computed(code: Code, value: Expr) -> Expr:
    """A scalar that is computed here, once, in memory: TVM visits the value of a variable twice, and refuses it the
    second time where the value defines variables of its own, as the expressions for exp and log do."""
    held = code.local("fixed", 1, str(value.ty.dtype))
    code.store(held, [0], value)
    return held[(index(0),)]


def _is_moderate(divisor: Expr, moderate: Set[Any]) -> bool:
    import tvm
    from tvm import tirx

    if not str(divisor.ty.dtype).startswith("float"):
        return False
    if isinstance(divisor, tirx.Cast):
        return str(divisor.value.ty.dtype).startswith("int")
    if isinstance(divisor, tirx.Select):
        return _is_moderate(divisor.true_value, moderate) and _is_moderate(divisor.false_value, moderate)
    if isinstance(divisor, tirx.FloatImm):
        return bool(divisor.value == 1)
    return isinstance(divisor, tvm.ir.Var) and divisor in moderate
