"""Accesses: where in memory a load reads, as a linear function of the axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgecc.targets.tvm_cpu.schedules.code import Buffer, Expr, index
from edgecc.targets.tvm_cpu.schedules.stage import Axis, extent_of, shape


@dataclass(frozen=True)
class Linear:
    """`base + sum(strides[v] * v)`, in elements. Strides are ints where they are static."""

    base: Expr
    strides: Mapping[Any, Any]

    def stride(self, axis: Axis) -> Any:
        return self.strides.get(axis.var, 0)

    def at(self, where: Mapping[Any, Expr]) -> Expr:
        """The offset where each variable has the given value; a variable that is not named is 0."""
        offset = self.base
        for variable, value in where.items():
            stride = self.strides.get(variable, 0)
            if not (isinstance(stride, int) and stride == 0):
                offset = offset + index(value) * stride
        return offset


def linear(load: Any, variables: Sequence[Any]) -> Linear | None:
    """The offset of a load in its buffer as a linear function of the variables; None where it is not one."""
    from tvm import sym

    analyzer = sym.Analyzer()
    base: Expr = index(0)
    strides: dict[Any, Any] = {}
    for position, step in zip(load.indices, buffer_strides(load.source), strict=True):
        found = sym.detect_linear_equation(index(_int(position)), list(variables))
        if not found:
            return None
        *factors, rest = found
        for variable, factor in zip(variables, factors, strict=True):
            product = extent_of(analyzer.simplify(index(factor) * step))
            if not (isinstance(product, int) and product == 0):
                strides[variable] = extent_of(analyzer.simplify(strides[variable] + product)) if variable in strides else product
        base = base + index(rest) * step
    return Linear(analyzer.simplify(base), strides)


def buffer_strides(buffer: Buffer) -> list[Any]:
    """Elements between neighbours along each dimension of a dense buffer."""
    from tvm import sym

    strides: list[Any] = []
    step: Any = 1
    for size in reversed(shape(buffer)):
        strides.insert(0, step)
        step = step * size if isinstance(step, int) and isinstance(size, int) else sym.Analyzer().simplify(index(step) * size)
    return strides


def size_of(buffer: Buffer) -> Any:
    """Elements of a buffer."""
    return buffer_strides(buffer)[0] * shape(buffer)[0] if shape(buffer) else 1


def _int(value: Any) -> Any:
    return value


def equal(a: Any, b: Any) -> bool:
    """Whether two sizes are the same for every value of their symbols."""
    from tvm import sym

    return a == b if isinstance(a, int) and isinstance(b, int) else bool(sym.Analyzer().can_prove_equal(index(a), index(b)))
