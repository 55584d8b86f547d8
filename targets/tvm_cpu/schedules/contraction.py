"""Contractions: sums of products of two operands, as a matrix product over rows, columns and a depth.

A matrix product, a convolution (as the implicit matrix product of its windows: Chellapilla et al. 2006, without the
copy) and an einsum are one thing here: `out[batch, rows, column] = sum over depth of left * right`, where `left` does
not depend on the column and `right` not on the rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgecc.targets.tvm_cpu.schedules.access import Linear, equal, linear
from edgecc.targets.tvm_cpu.schedules.code import Expr, index
from edgecc.targets.tvm_cpu.schedules.stage import Axis, Kernel, Stage, replace, variables
from edgecc.targets.tvm_cpu.schedules.weight_form import WeightForm, weight_form


@dataclass(frozen=True)
class Group:
    """Axes that are walked as one, the outermost first."""

    axes: tuple[Axis, ...]

    @property
    def extent(self) -> Any:
        total: Any = 1
        for axis in self.axes:
            total = total * axis.extent
        return total

    def split(self, position: Expr) -> dict[Any, Expr]:
        """The position of each axis, from a position in the group."""
        from tvm import tirx

        where: dict[Any, Expr] = {}
        for number, axis in reversed(list(enumerate(self.axes))):
            where[axis.var] = position if number == 0 else tirx.floormod(index(position), index(axis.extent))
            position = tirx.floordiv(index(position), index(axis.extent)) if number else position
        return where


@dataclass(frozen=True)
class Operand:
    """`load` is what the stage reads, `place` where. The buffer is a parameter, or is made by an elementwise stage."""

    load: Any
    place: Linear


@dataclass(frozen=True)
class Contraction:
    """`where` gives each axis of the stage in terms of the axes here (a channel of groups is two of them). `form`: how the right
    operand becomes floats where it is stored as integers; its load is then the operand's.
    """

    stage: Stage
    where: Mapping[Any, Expr]
    left: Operand
    right: Operand
    batch: tuple[Axis, ...]
    rows: tuple[Axis, ...]
    column: Axis
    depth: tuple[Axis, ...]
    form: WeightForm | None = None


def recognise(kernel: Kernel, stage: Stage) -> Contraction | None:
    """The contraction that a stage is; None where it is none, or a depthwise convolution."""
    from tvm import tirx

    if stage.combine != "sum" or not isinstance(stage.term, tirx.Mul) or not _zero(stage.init):
        return None
    axes, where = _split_groups(stage)
    factors = [stage.term.a, stage.term.b]
    forms = [weight_form(x) for x in factors]
    loads = [form.load if form else narrow(x) for form, x in zip(forms, factors, strict=True)]
    first, second = (_regroup(_resolve(kernel, x), axes, where) for x in loads)
    spatial = [a for a in axes if a.extent != 1]
    depth = [a for a in stage.reduction if a.extent != 1]
    unit = {a.var: index(0) for a in (*axes, *stage.reduction) if a.extent == 1}
    first, second = replace(first, unit), replace(second, unit)
    where = {a.var: replace(replace(where.get(a.var, a.var), unit), {}) for a in stage.axes}
    column = spatial[-1] if spatial else Axis(tirx.Var("column", "int64"), 1)
    if column.var in variables(first):
        first, second = second, first
        forms.reverse()
    if column.var in variables(first) or forms[0]:
        return None
    everything = [a.var for a in (*spatial, *depth)]
    operands = []
    for value in (first, second):
        place = linear(value, everything) if _is_load(value) else None
        if place is None:
            return None
        operands.append(Operand(value, place))
    left, right = operands
    others = [a for a in spatial if a is not column]
    batch = tuple(a for a in others if a.var in right.place.strides)
    rows = tuple(a for a in others if a.var not in right.place.strides)
    ordered = sorted(depth, key=lambda a: -_weight(left.place.stride(a)))
    return Contraction(stage, where, left, right, batch, rows, column, tuple(ordered), forms[1])


def narrow(factor: Expr) -> Expr:
    """A factor as the shorter integer that it is made of; any other factor as it is."""
    from tvm import tirx

    return factor.value if isinstance(factor, tirx.Cast) and str(factor.value.ty.dtype) in ("int8", "uint8", "int16") else factor


def fuse(axes: tuple[Axis, ...], *places: Linear) -> list[Group]:
    """Groups of neighbours along which every place moves evenly: the step of the outer is that of the inner times its extent."""
    groups: list[list[Axis]] = []
    for axis in axes:
        inner = groups[-1][-1] if groups else None
        if inner is not None and all(_even(p.stride(inner), p.stride(axis), axis.extent) for p in places):
            groups[-1].append(axis)
        else:
            groups.append([axis])
    return [Group(tuple(g)) for g in groups]


def _even(outer: Any, inner: Any, extent: Any) -> bool:
    return equal(outer, inner * extent)


def _split_groups(stage: Stage) -> tuple[list[Axis], dict[Any, Expr]]:
    """Axes, with a channel that both operands divide into groups (`channel // size`) as two axes."""
    import tvm_ffi
    from tvm import tirx

    sizes: dict[Any, int] = {}

    def see(node: Any) -> None:
        if isinstance(node.b, tirx.IntImm):
            sizes[node.a] = int(node.b)

    tvm_ffi.structural_walk(stage.update, (tirx.FloorDiv, see), order="post")
    axes: list[Axis] = []
    where: dict[Any, Expr] = {}
    for axis in stage.axes:
        size = next((s for v, s in sizes.items() if v.same_as(axis.var)), None)
        if size is None or not isinstance(axis.extent, int) or axis.extent % size or size == 1 or size == axis.extent:
            axes.append(axis)
            continue
        outer, inner = Axis(tirx.Var("group", "int64"), axis.extent // size), Axis(tirx.Var("member", "int64"), size)
        axes += [outer, inner]
        where[axis.var] = outer.var * size + inner.var
    return axes, where


def _regroup(value: Expr, axes: list[Axis], where: Mapping[Any, Expr]) -> Expr:
    """A load with the axes of groups in place of channels, its indices free of the divisions that made the groups."""
    import tvm
    from tvm import sym

    if not where or not _is_load(value):
        return value
    analyzer = sym.Analyzer()
    for axis in axes:
        analyzer.bind(axis.var, tvm.ir.Range(index(0), index(axis.extent)))
    replaced = replace(value, where)
    return replaced.source[tuple(analyzer.simplify(i) for i in replaced.indices)]


def _resolve(kernel: Kernel, value: Expr) -> Expr:
    """A load of a stage that only moves elements as a load of what it moves; anything else as it is."""
    if not _is_load(value):
        return value
    inlined = kernel.inline(value)
    return inlined if _is_load(inlined) and not variables(inlined) - variables(value) else value


def _is_load(value: Expr) -> bool:
    import tvm

    return isinstance(value, tvm.ir.TensorLoad)


def _zero(value: Expr) -> bool:
    return value is not None and getattr(value, "value", None) == 0


def _weight(stride: Any) -> float:
    return float(stride) if isinstance(stride, int) else 1e18
