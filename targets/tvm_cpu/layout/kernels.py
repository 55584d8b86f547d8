"""Kernels: functions of stages, what kind of function they are, and functions written for buffers in other orders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace as changed
from typing import Any

from edgecc.targets.tvm_cpu.layout.order import Order, Size, permuted, plain, same_sizes, unit
from edgecc.targets.tvm_cpu.schedules.stage import Axis, Kernel, Stage, loads, replace, shape

Buffer = Any  # tvm.ir.Var of a buffer type
Expr = Any


def buffers(kernel: Kernel) -> list[Buffer]:
    """The parameters, then the buffers between stages."""
    return [*kernel.params, *(s.buffer for s in kernel.stages if not kernel.is_output(s.buffer))]


def transposed_axes(kernel: Kernel) -> list[int] | None:
    """The axes of the function's transposition: dimension k of the result is dimension `axes[k]` of the input. None if it is none."""
    if len(kernel.stages) != 1 or len(kernel.params) != 2 or kernel.stages[0].is_reduction or kernel.sizes:
        return None
    stage, source = kernel.stages[0], kernel.params[0]
    if not _is_load(stage.update, source) or len(source.ty.shape) != len(stage.axes):
        return None
    where = {axis.var: k for k, axis in enumerate(stage.axes)}
    found = [where.get(i, -1) for i in stage.update.indices]
    axes = [found.index(k) for k in range(len(found)) if k in found]
    moved = len(axes) == len(found) and same_sizes(shape(stage.buffer), permuted(shape(source), tuple(axes)))
    return axes if moved else None


def reads_in_place(kernel: Kernel) -> bool:
    """Whether a function of one stage reads each element at axes of the result as they are: it adds or drops dimensions."""
    import tvm
    from tvm import tirx

    stage = kernel.stages[0]
    axes = {axis.var for axis in stage.axes}
    load = stage.update
    return isinstance(load, tvm.ir.TensorLoad) and all(i in axes or isinstance(i, tirx.IntImm) for i in load.indices)


def unit_view(old: Sequence[Size], new: Sequence[Size], dtype: str) -> Any | None:
    """A function that adds or drops dimensions of one element; None where it would have to be told a size.

    As a function of plain indices it fuses with its neighbours, which TVM's reshape does not.
    """
    from tvm import ir, tirx

    if any(not isinstance(s, (int, ir.Var)) for s in (*old, *new)):
        return None
    source, made = (tirx.decl_buffer([_int64(s) for s in sizes], dtype, name) for sizes, name in ((old, "x"), (new, "view")))
    axes = [Axis(tirx.Var(f"i{k}", "int64"), size) for k, size in enumerate(new)]
    long = iter([a.var for a in axes if not unit(a.extent)])
    indices = [_int64(0) if unit(s) else next(long) for s in old]
    kernel = Kernel("view", [source, made], [made], [Stage(made, tuple(axes), (), None, source[tuple(indices)])])
    return write(kernel, [plain(len(old)), plain(len(new))])


def write(kernel: Kernel, orders: Sequence[Order]) -> Any:
    """The kernel as a primitive function whose buffers, in the order of `buffers`, lie in memory in these orders.

    Its parameters are what it reads, the sizes, then what it makes.
    """
    from tvm import s_tir, tirx

    table = [(b, order, _in_order(b, order)) for b, order in zip(buffers(kernel), orders, strict=True)]
    blocks = [_block(stage, table) for stage in kernel.stages]
    between = [new for _, _, new in table[len(kernel.params) :]]
    body = tirx.SeqStmt(blocks) if len(blocks) > 1 else blocks[0]
    root = s_tir.SBlockRealize([], True, s_tir.SBlock([], [], [], "root", body, alloc_buffers=between))
    read_from = [new for old, _, new in table[: len(kernel.params)] if not kernel.is_output(old)]
    written = [new for old, _, new in table[: len(kernel.params)] if kernel.is_output(old)]
    function = tirx.PrimFunc([*read_from, *kernel.sizes, *written], root)
    return s_tir.renew_defs(function.with_attrs({"tirx.noalias": True, "s_tir": True}))


Table = Sequence[tuple[Buffer, Order, Buffer]]


def _block(stage: Stage, table: Table) -> Any:
    """Loops over the axes in the order of memory of the buffer that they fill, then over the reduction."""
    from tvm import ir, s_tir, tirx
    from tvm.tirx.stmt import BufferRegion

    stage = _with_own_axes(stage)
    order, buffer = _entry(stage.buffer, table)
    axes = [*permuted(stage.axes, order), *stage.reduction]
    kinds = [tirx.IterVar.DataPar] * len(stage.axes) + [tirx.IterVar.CommReduce] * len(stage.reduction)
    loops = [tirx.Var(f"ax{k}", "int64") for k in range(len(axes))]
    iterations = [tirx.IterVar(ir.Range(_int64(0), _int64(a.extent)), a.var, kind) for a, kind in zip(axes, kinds, strict=True)]
    indices = [a.var for a in permuted(stage.axes, order)]
    value = _moved(stage.update, table)
    init = None if stage.init is None else tirx.BufferStore(buffer, _moved(stage.init, table), indices)
    read_regions = [_region(load) for load in loads(value) if not load.source.same_as(buffer)]
    written = [BufferRegion(buffer, [ir.Range.from_min_extent(i, 1) for i in indices])]
    block = s_tir.SBlock(iterations, read_regions, written, stage.buffer.name, tirx.BufferStore(buffer, value, indices), init)
    body = s_tir.SBlockRealize(loops, True, block)
    for variable, axis in reversed(list(zip(loops, axes, strict=True))):
        body = tirx.For(variable, _int64(0), _int64(axis.extent), tirx.ForKind.SERIAL, body)
    return body


def _with_own_axes(stage: Stage) -> Stage:
    """The stage with variables of its own: two stages may share theirs, two blocks may not."""
    from tvm import tirx

    own = {a.var: tirx.Var(a.var.name, "int64") for a in (*stage.axes, *stage.reduction)}
    axes, reduction = (tuple(changed(a, var=own[a.var]) for a in group) for group in (stage.axes, stage.reduction))
    init = None if stage.init is None else replace(stage.init, own)
    return changed(stage, axes=axes, reduction=reduction, init=init, update=replace(stage.update, own))


def _moved(value: Expr, table: Table) -> Expr:
    """`value` with each load at its place in memory."""
    import tvm
    import tvm_ffi

    def load(node: Any) -> Any:
        order, buffer = _entry(node.source, table)
        return buffer[tuple(permuted(list(node.indices), order))]

    return tvm_ffi.structural_map(value, (tvm.ir.TensorLoad, load))


def _entry(buffer: Buffer, table: Table) -> tuple[Order, Buffer]:
    return next((order, new) for old, order, new in table if old.same_as(buffer))


def _in_order(buffer: Buffer, order: Order) -> Buffer:
    from tvm import tirx

    return tirx.decl_buffer(permuted(list(buffer.ty.shape), order), str(buffer.ty.dtype), buffer.name, layout=None)


def _region(load: Any) -> Any:
    """What a load reads; the whole of a dimension whose index is itself loaded."""
    from tvm import ir
    from tvm.tirx.stmt import BufferRegion

    ranges = []
    for i, size in zip(load.indices, load.source.ty.shape, strict=True):
        ranges.append(ir.Range(_int64(0), size) if any(True for _ in loads(i)) else ir.Range.from_min_extent(i, 1))
    return BufferRegion(load.source, ranges)


def _is_load(value: Expr, buffer: Buffer) -> bool:
    import tvm

    return isinstance(value, tvm.ir.TensorLoad) and value.source.same_as(buffer)


def _int64(value: Any) -> Any:
    from tvm import tirx

    return tirx.const(value, "int64") if isinstance(value, int) else value
