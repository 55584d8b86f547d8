"""Plainer: the stages of a function without what only stands in the way of the rules that schedule it.

A convolution with a kernel of one element becomes a product of matrices: reduction axes of one element go, and so do
buffers that only copy another one.
"""

from __future__ import annotations

from dataclasses import replace as changed
from typing import Any

from edgecc.targets.tvm_cpu.layout.order import same_sizes
from edgecc.targets.tvm_cpu.schedules.stage import Kernel, NotStagesError, Stage, read, replace, shape

Buffer = Any  # tvm.ir.Var of a buffer type
Expr = Any


def read_plainly(name: str, function: Any) -> Kernel | None:
    """The stages of a function, without reduction axes of one element and without stages that copy; None for loops."""
    try:
        kernel = read(name, function)
    except NotStagesError:
        return None
    kernel.stages = [_without_unit_reductions(s) for s in kernel.stages]
    return _without_copies(kernel)


def _without_unit_reductions(stage: Stage) -> Stage:
    from tvm import tirx

    units = [a for a in stage.reduction if a.extent == 1]
    if not units or stage.combine is None:
        return stage
    rest = tuple(a for a in stage.reduction if a.extent != 1)
    zeros = {a.var: tirx.const(0, "int64") for a in units}
    term = _simplified(replace(stage.term, zeros))
    if not rest:
        return changed(stage, reduction=(), init=None, update=term, combine=None, term=None)
    return changed(stage, reduction=rest, update=_simplified(replace(stage.update, zeros)), term=term)


def _simplified(value: Expr) -> Expr:
    """`value` with the indices of its loads simplified."""
    import tvm
    import tvm_ffi
    from tvm import sym

    analyzer = sym.Analyzer()
    return tvm_ffi.structural_map(value, (tvm.ir.TensorLoad, lambda load: load.source[tuple(analyzer.simplify(i) for i in load.indices)]))


def _without_copies(kernel: Kernel) -> Kernel:
    """The kernel without buffers that are a plain copy of another one."""
    import tvm
    import tvm_ffi

    for copy in list(kernel.stages):
        source = None if kernel.is_output(copy.buffer) else _copied(copy)
        if source is None:
            continue

        def load(node: Any, copy: Stage = copy, source: Buffer = source) -> Any:
            return source[tuple(node.indices)] if node.source.same_as(copy.buffer) else node

        def without(value: Expr, load: Any = load) -> Expr:
            return None if value is None else tvm_ffi.structural_map(value, (tvm.ir.TensorLoad, load))

        kernel.stages = [
            changed(s, update=without(s.update), term=without(s.term)) for s in kernel.stages if not s.buffer.same_as(copy.buffer)
        ]
    return kernel


def _copied(stage: Stage) -> Buffer | None:
    """The buffer that a stage copies as it is."""
    import tvm

    value = stage.update
    if stage.is_reduction or not isinstance(value, tvm.ir.TensorLoad) or len(value.indices) != len(stage.axes):
        return None
    same_shape = same_sizes(shape(value.source), shape(stage.buffer))
    same_places = all(i.same_as(a.var) for i, a in zip(value.indices, stage.axes, strict=True))
    return value.source if same_shape and same_places else None
