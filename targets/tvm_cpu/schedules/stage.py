"""Stages: what a fused primitive function computes, read from TVM's blocks.

A fused function is a list of stages. A stage defines each element of one buffer: `out[i..] = value`, or
`out[i..] = init` and then `out[i..] = combine(out[i..], value)` for every point of its reduction axes. How and in what
order the elements are computed is not part of it: that is what the generators of this package decide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgecc.targets.tvm_cpu.schedules.code import Buffer, Expr, index

Extent = Any  # an int where static, else an expression of the function's symbolic sizes


@dataclass(frozen=True, eq=False)
class Axis:
    var: Expr
    extent: Extent


@dataclass(frozen=True, eq=False)
class Stage:
    """One buffer. `axes` are its dimensions in order. `update` has loads of the buffer itself where it is a reduction.

    `combine` and `term`: `update` is `combine(buffer[..], term)` with `sum`, `max`, `min` or `prod`; None where it is
    anything else.
    """

    buffer: Buffer
    axes: tuple[Axis, ...]
    reduction: tuple[Axis, ...]
    init: Expr | None
    update: Expr
    combine: str | None = None
    term: Expr | None = None

    @property
    def is_reduction(self) -> bool:
        return bool(self.reduction) or self.init is not None


class NotStagesError(Exception):
    """The function is not a list of stages: it was written by hand as loops."""


@dataclass(eq=False)
class Kernel:
    """A fused function: buffers that are parameters, in order, and which of them are written; stages in order.

    `sizes`: scalar parameters, which follow the buffers.
    """

    name: str
    params: list[Buffer]
    outputs: list[Buffer]
    stages: list[Stage]
    sizes: list[Expr] = field(default_factory=list)

    def stage_of(self, buffer: Buffer) -> Stage | None:
        return next((s for s in self.stages if s.buffer.same_as(buffer)), None)

    def readers(self, buffer: Buffer) -> list[Stage]:
        """The stages that read this buffer, but for the one that makes it."""
        return [s for s in self.stages if not s.buffer.same_as(buffer) and any(b.same_as(buffer) for b in reads(s.update))]

    def is_output(self, buffer: Buffer) -> bool:
        return any(buffer.same_as(b) for b in self.outputs)

    def element(self, buffer: Buffer, indices: Sequence[Expr], keep: Callable[[Buffer], bool] = lambda b: False) -> Expr:
        """The value of an element with every elementwise stage put in; reductions, parameters and what is kept stay loads."""
        stage = self.stage_of(buffer)
        if stage is None or stage.is_reduction or keep(buffer):
            return buffer[tuple(indices)] if indices else buffer[()]
        return self.inline(substitute(stage.update, stage.axes, indices), keep)

    def inline(self, value: Expr, keep: Callable[[Buffer], bool] = lambda b: False) -> Expr:
        """`value` with `element` in place of each load."""
        import tvm
        import tvm_ffi

        def load(node: Any) -> Any:
            stage = self.stage_of(node.source)
            if stage is None or stage.is_reduction or keep(node.source):
                return node
            return self.element(node.source, list(node.indices), keep)

        return tvm_ffi.structural_map(value, (tvm.ir.TensorLoad, load))


def read(name: str, function: Any) -> Kernel:
    """The stages of a fused function. Raises NotStagesError for loops that were written by hand."""
    from tvm import s_tir, tirx

    root = function.body
    if not isinstance(root, s_tir.SBlockRealize):
        raise NotStagesError("no root block")
    statements = root.block.body.seq if isinstance(root.block.body, tirx.SeqStmt) else [root.block.body]
    stages = [stage for s in statements for stage in _stages(s)]
    params = [p for p in function.params if is_buffer(p)]
    sizes = [p for p in function.params if not is_buffer(p)]
    written = [s.buffer for s in stages]
    outputs = [p for p in params if any(p.same_as(w) for w in written)]
    for number, buffer in enumerate(written):
        if any(buffer.same_as(other) for other in written[:number]):
            raise NotStagesError("a buffer is written twice")
    return Kernel(name, params, outputs, stages, sizes)


def _stages(statement: Any) -> list[Stage]:
    """The stage of a block, or the two of one that finds an extreme and its position."""
    from tvm import tirx

    from edgecc.targets.tvm_cpu.schedules.positions import extreme_and_position

    block, spatial, reduction = _block(statement)
    if not isinstance(block.body, tirx.BufferStore):
        return extreme_and_position(block, spatial, reduction)
    store = block.body
    axes, unused = at_axes(store, spatial)
    init = block.init.value if block.init is not None else None
    update = substitute(store.value, unused, [tirx.const(0, "int64")] * len(unused)) if unused else store.value
    combine, term = _combiner(store.buffer, update) if init is not None else (None, None)
    return [Stage(store.buffer, axes, tuple(reduction), init, update, combine, term)]


def _block(statement: Any) -> tuple[Any, list[Axis], list[Axis]]:
    """The block in a nest of loops, and its axes: those of the result and those of the reduction."""
    from tvm import s_tir, tirx

    loops: list[Any] = []
    while isinstance(statement, tirx.For):
        if statement.kind != tirx.ForKind.SERIAL:
            raise NotStagesError("a loop with a schedule")
        loops.append(statement)
        statement = statement.body
    if not isinstance(statement, s_tir.SBlockRealize):
        raise NotStagesError("loops around no block")
    block = statement.block
    if block.match_buffers or block.alloc_buffers or not _always(statement.predicate):
        raise NotStagesError("a block with a predicate or buffers of its own")
    loop_of = {loop.loop_var: loop for loop in loops}
    spatial: list[Axis] = []
    reduction: list[Axis] = []
    for iteration, value in zip(block.iter_vars, statement.iter_values, strict=True):
        extent = extent_of(iteration.dom.extent)
        if value in loop_of:
            extent = extent_of(loop_of[value].extent)
        elif extent != 1:
            raise NotStagesError("an axis that is not a loop")
        kind = {tirx.IterVar.DataPar: spatial, tirx.IterVar.CommReduce: reduction}.get(iteration.iter_type)
        if kind is None:
            raise NotStagesError("an axis with an order")
        kind.append(Axis(iteration.var, extent))
    return block, spatial, reduction


def at_axes(store: Any, spatial: Sequence[Axis]) -> tuple[tuple[Axis, ...], list[Axis]]:
    """The axis for each dimension of what is stored, and the axes of extent 1 that are at none."""
    from tvm import tirx

    by_var = {a.var: a for a in spatial}
    axes = []
    for i, size in zip(store.indices, store.buffer.ty.shape, strict=True):
        if i in by_var:
            axes.append(by_var.pop(i))
        elif extent_of(i) == 0 and extent_of(size) == 1:
            axes.append(Axis(tirx.Var("unit", "int64"), 1))
        else:
            raise NotStagesError("a store that is not at its axes")
    if any(a.extent != 1 for a in by_var.values()):
        raise NotStagesError("an axis that the store does not use")
    return tuple(axes), list(by_var.values())


def _combiner(buffer: Buffer, update: Expr) -> tuple[str | None, Expr | None]:
    from tvm import tirx

    names = {tirx.Add: "sum", tirx.Max: "max", tirx.Min: "min", tirx.Mul: "prod"}
    name = names.get(type(update))
    if name is None:
        return None, None
    itself = [_is_load(x, buffer) for x in (update.a, update.b)]
    if itself == [True, False]:
        return name, update.b
    return (name, update.a) if itself == [False, True] else (None, None)


def _is_load(value: Expr, buffer: Buffer) -> bool:
    import tvm

    return isinstance(value, tvm.ir.TensorLoad) and value.source.same_as(buffer)


def _always(predicate: Expr) -> bool:
    return bool(getattr(predicate, "value", 0)) or str(predicate) in ("T.bool(True)", "True")


# -- expressions


def extent_of(value: Any) -> Extent:
    """An int where the size is static."""
    from tvm import tirx

    return int(value) if isinstance(value, (int, tirx.IntImm)) else value


def substitute(value: Expr, axes: Sequence[Axis], indices: Sequence[Expr]) -> Expr:
    """`value` with each axis at its index."""
    return replace(value, {a.var: i for a, i in zip(axes, indices, strict=True)})


def replace(value: Expr, by: Mapping[Any, Expr]) -> Expr:
    """`value` with an expression, or a number, in place of each variable that has one."""
    import tvm
    import tvm_ffi

    if not by:
        return value
    table = {variable: index(i) for variable, i in by.items()}
    return tvm_ffi.structural_map(value, (tvm.ir.Var, lambda v: table.get(v, v)))


def loads(value: Expr) -> Iterator[Any]:
    """Every load in an expression."""
    import tvm
    import tvm_ffi

    found: list[Any] = []
    tvm_ffi.structural_walk(value, (tvm.ir.TensorLoad, found.append), order="post")
    return iter(found)


def reads(value: Expr) -> list[Buffer]:
    """Every buffer that an expression loads from, once, in order."""
    found: list[Buffer] = []
    for load in loads(value):
        if not any(load.source.same_as(b) for b in found):
            found.append(load.source)
    return found


def variables(value: Expr) -> set[Any]:
    """Every scalar variable in an expression."""
    import tvm
    import tvm_ffi
    from tvm import tirx

    found: set[Any] = set()

    def see(v: Any) -> None:
        if not isinstance(v.ty, tirx.buffer.BufferType):
            found.add(v)

    tvm_ffi.structural_walk(value, (tvm.ir.Var, see), order="post")
    return found


def is_buffer(variable: Any) -> bool:
    """Whether a variable is a buffer, rather than a number."""
    from tvm import tirx

    return isinstance(variable.ty, tirx.buffer.BufferType)


def shape(buffer: Buffer) -> list[Extent]:
    return [extent_of(s) for s in buffer.ty.shape]
