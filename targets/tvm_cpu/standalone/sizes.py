"""Sizes: integers, or integer expressions of TVM over the dynamic dimensions: their bounds, and their text in C."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from edgecc.errors import InternalError

Size = Any  # an int, or a TVM expression
Interval = tuple[float, float]


def constant(size: Size) -> Size:
    """An int where the size is one, else the simplified expression."""
    from tvm import sym, tirx

    if not isinstance(size, (int, tirx.IntImm)):
        size = sym.Analyzer().simplify(size)
    return int(size) if isinstance(size, (int, tirx.IntImm)) else size


def variables(size: Size) -> list[Any]:
    """The variables of an expression, each once, in order."""
    import tvm
    import tvm_ffi

    found: list[Any] = []
    if not isinstance(size, int):
        tvm_ffi.structural_walk(
            size, (tvm.ir.Var, lambda v: found.append(v) if not any(v.same_as(f) for f in found) else None), order="post"
        )
    return found


def substitute(size: Size, values: Mapping[Any, Size]) -> Size:
    """The size with the value of each variable put in."""
    import tvm
    import tvm_ffi
    from tvm import tirx

    if isinstance(size, int):
        return size
    table = {v: tirx.IntImm("int64", x) if isinstance(x, int) else x for v, x in values.items()}
    return constant(tvm_ffi.structural_map(size, (tvm.ir.Var, lambda v: table.get(v, v))))


def bounds(size: Size, of: Mapping[str, Interval]) -> Interval:
    """The least and the largest value, by interval arithmetic: exact where each variable occurs once.

    `of`: bounds of the variables by name. Raises InternalError for an operator that no size has.
    """
    if isinstance(size, (int, float)):
        return size, size
    name = type(size).__name__
    if name == "Var":
        return of[size.name]
    if name in ("IntImm", "FloatImm"):
        return size.value, size.value
    if name == "Cast":
        return bounds(size.value, of) if "float" in str(size.ty.dtype) else _each(math.trunc, bounds(size.value, of))
    if name == "Call":
        return _call_bounds(size, of)
    (a, b), (c, d) = bounds(size.a, of), bounds(size.b, of)
    if name == "FloorMod":
        return (0, min(b, d - 1)) if a >= 0 else (0, d - 1)
    corners = [_apply(name, x, y) for x in (a, b) for y in (c, d)]
    return min(corners), max(corners)


def _call_bounds(size: Size, of: Mapping[str, Interval]) -> Interval:
    name = size.op.name.removeprefix("tirx.")
    if name == "pow":
        corners = [x**y for x in bounds(size.args[0], of) for y in bounds(size.args[1], of)]
        return min(corners), max(corners)
    monotone: dict[str, Callable[[float], float]] = {"ceil": math.ceil, "floor": math.floor, "trunc": math.trunc, "sqrt": math.sqrt}
    if name not in monotone:
        raise InternalError(f"a size calls {name}: {size}")
    return _each(monotone[name], bounds(size.args[0], of))


def _each(function: Callable[[float], float], interval: Interval) -> Interval:
    return function(interval[0]), function(interval[1])


def _apply(name: str, x: float, y: float) -> float:
    match name:
        case "Add":
            return x + y
        case "Sub":
            return x - y
        case "Mul":
            return x * y
        case "FloorDiv":
            return x // y
        case "Div":
            return x / y
        case "Min":
            return min(x, y)
        case "Max":
            return max(x, y)
    raise InternalError(f"a size uses {name}")


_INFIX = {"Add": "+", "Sub": "-", "Mul": "*", "Div": "/"}
_FUNCTION = {"FloorDiv": "floor_div", "FloorMod": "floor_mod", "Min": "least", "Max": "largest"}
HELPERS = """\
static inline int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b != 0 && (a < 0) != (b < 0)); }
static inline int64_t floor_mod(int64_t a, int64_t b) { return a - floor_div(a, b) * b; }
static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t largest(int64_t a, int64_t b) { return a > b ? a : b; }
"""


def c_text(size: Size, names: Mapping[str, str]) -> str:
    """The size in C, int64 or double as in TVM; `names`: what stands for each variable."""
    if isinstance(size, int):
        return str(size) if abs(size) < 1 << 31 else f"INT64_C({size})"
    name = type(size).__name__
    if name == "Var":
        return names[size.name]
    if name == "IntImm":
        return c_text(int(size.value), names)
    if name == "FloatImm":
        return repr(float(size.value))
    if name == "Cast":
        return f"({'double' if 'float' in str(size.ty.dtype) else 'int64_t'}){_inner(size.value, names)}"
    if name == "Call":
        return f"{size.op.name.removeprefix('tirx.')}({', '.join(c_text(a, names) for a in size.args)})"
    if name in _INFIX:
        return f"({c_text(size.a, names)} {_INFIX[name]} {c_text(size.b, names)})"
    if name in _FUNCTION:
        return f"{_FUNCTION[name]}({c_text(size.a, names)}, {c_text(size.b, names)})"
    raise InternalError(f"a size uses {name}: {size}")


def _inner(size: Size, names: Mapping[str, str]) -> str:
    return f"({c_text(size, names)})"
