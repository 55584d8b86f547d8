"""Graphs: the calls of a legalized Relax function, as far as the orders of tensors in memory depend on them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgecc.targets.tvm_cpu.layout.choose import inputs
from edgecc.targets.tvm_cpu.layout.kernels import reads_in_place, transposed_axes
from edgecc.targets.tvm_cpu.layout.order import Size
from edgecc.targets.tvm_cpu.layout.plainer import read_plainly
from edgecc.targets.tvm_cpu.schedules.stage import Kernel, extent_of, shape

Var = Any  # tvm.relax.Var
Expr = Any  # tvm.relax.Expr
_UNBOUNDED = 64  # what a dynamic size without an upper bound counts as


@dataclass(frozen=True)
class KernelCall:
    """A function that is read as stages, of one result. `arguments`: tensors; `scalars`: sizes that the kernel computes with."""

    var: Var
    function: Any  # tvm.ir.GlobalVar
    arguments: Sequence[Expr]
    scalars: Sequence[Expr]
    kernel: Kernel


@dataclass(frozen=True)
class Transposition:
    """Dimension k of the result is dimension `axes[k]` of the source."""

    var: Var
    source: Expr
    axes: Sequence[int]


@dataclass(frozen=True)
class Reshape:
    var: Var
    source: Expr


@dataclass(frozen=True)
class Other:
    """Anything else: it takes and gives tensors in the order of the program."""

    var: Var
    value: Expr


Node = KernelCall | Transposition | Reshape | Other


def nodes(module: Any) -> list[Node]:
    """The bindings of `main` in order."""
    from tvm import relax

    readings: dict[str, tuple[bool, list[int] | None, Kernel | None]] = {}
    found: list[Node] = []
    for binding in bindings(module["main"]):
        var, value = binding.var, binding.value
        if not is_call_tir(value) or not isinstance(var.ty, relax.TensorType):
            found.append(Other(var, value))
            continue
        function, given = value.args[0], list(value.args[1].fields)
        arguments = [a for a in given if isinstance(a.ty, relax.TensorType)]
        scalars = [a for a in given if not isinstance(a.ty, relax.TensorType)]
        if function.name_hint not in readings:
            readings[function.name_hint] = _read(module, function)
        is_reshape, axes, kernel = readings[function.name_hint]
        if is_reshape and len(arguments) == 1:
            found.append(Reshape(var, arguments[0]))
        elif axes is not None:
            found.append(Transposition(var, arguments[0], axes))
        elif kernel is not None and len(kernel.outputs) == 1 and len(inputs(kernel)) == len(arguments) and len(value.args) == 2:
            found.append(KernelCall(var, function, arguments, scalars, kernel))
        else:
            found.append(Other(var, value))
    return found


def bindings(function: Any) -> list[Any]:
    return [b for block in function.body.blocks for b in block.bindings]


def is_call_tir(value: Expr) -> bool:
    from tvm import ir, relax

    return isinstance(value, relax.Call) and value.op == ir.Op.get("relax.call_tir")


def _read(module: Any, function: Any) -> tuple[bool, list[int] | None, Kernel | None]:
    """Whether a function is a reshape, the axes of the transposition that it is, and its stages."""
    from tvm import relax

    prim = module[function]
    kernel = read_plainly(function.name_hint, prim)
    if kernel is None:
        return False, None, None
    same_places = len(kernel.params) == 2 and not reads_in_place(kernel) and bool(relax.analysis.has_reshape_pattern(prim))
    return same_places and same_size(*(shape(p) for p in kernel.params)), transposed_axes(kernel), kernel


def same_size(first: Sequence[Size], second: Sequence[Size]) -> bool:
    """Whether tensors of two shapes have as many elements. TVM takes the first part of a tensor for a reshape of it."""
    from tvm import sym, tirx

    products = [
        math.prod((s if not isinstance(s, int) else tirx.const(s, "int64") for s in sizes), start=tirx.const(1, "int64"))
        for sizes in (first, second)
    ]
    return bool(sym.Analyzer().can_prove_equal(*products))


def is_constant(value: Expr) -> bool:
    from tvm import ir

    return isinstance(value, ir.GenericConst)


def sizes(value: Expr) -> list[Size]:
    """The sizes of a tensor; an int where static."""
    return [extent_of(s) for s in value.ty.shape]


def bounds(function: Any) -> dict[str, int]:
    """The largest values of the function's dynamic sizes, by name."""
    upper = function.attrs.get("tir_var_upper_bound") if function.attrs else None
    return {str(k): int(v) for k, v in upper.items()} if upper else {}


def nbytes(value: Expr, upper: Mapping[str, int]) -> float:
    """The size of a tensor, at the upper bounds of its dynamic sizes."""
    import tvm_ffi
    from tvm import ir, sym, tirx
    from tvm.runtime import DataType

    def bound(v: Any) -> Any:
        return tirx.const(upper.get(v.name, _UNBOUNDED), "int64")

    def most(size: Size) -> int:
        if isinstance(size, int):
            return size
        largest = sym.Analyzer().simplify(tvm_ffi.structural_map(size, (ir.Var, bound)))
        return int(largest) if isinstance(largest, tirx.IntImm) else _UNBOUNDED  # a size that is computed in floats stays an expression

    found = [most(s) for s in sizes(value)]
    return math.prod(found) * float(DataType(str(value.ty.dtype)).bits) / 8
