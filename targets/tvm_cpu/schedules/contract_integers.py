"""The rule for contractions of 8-bit integers: int32 sums by the dot-product instructions of the CPU, with everything elementwise around them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from edgecc.targets.tvm_cpu.schedules.access import Linear
from edgecc.targets.tvm_cpu.schedules.code import Expr, index
from edgecc.targets.tvm_cpu.schedules.contraction import Contraction, Group, Operand, fuse, recognise
from edgecc.targets.tvm_cpu.schedules.core import Core
from edgecc.targets.tvm_cpu.schedules.dot_panels import pack_right, pack_rows, packed_size, packer, padded_run
from edgecc.targets.tvm_cpu.schedules.dots import Dot, choose, dot_of
from edgecc.targets.tvm_cpu.schedules.epilogue import Epilogue, epilogue_of
from edgecc.targets.tvm_cpu.schedules.multiply_dots import multiply_dots
from edgecc.targets.tvm_cpu.schedules.operands import Operands
from edgecc.targets.tvm_cpu.schedules.plan import Plan, Step, kernel_function
from edgecc.targets.tvm_cpu.schedules.product import Left, Product
from edgecc.targets.tvm_cpu.schedules.stage import Axis, Kernel
from edgecc.targets.tvm_cpu.schedules.tiles import columns_first, together

_SMALL = frozenset({"int8", "uint8", "int16"})


def contract_integers(kernel: Kernel, core: Core, constants: frozenset[int]) -> Plan | None:
    """The plan of a function with one contraction of 8-bit integers, None for any other function.

    `constants`: which parameters are constants wherever the function is called.
    """
    found = [(s, c) for s in kernel.stages if (c := recognise(kernel, s))]
    if len(found) != 1:
        return None
    stage, contraction = found[0]
    dtypes = {str(o.load.source.ty.dtype) for o in (contraction.left, contraction.right)}
    epilogue = epilogue_of(kernel, stage, contraction.column.var)
    if epilogue is None or str(stage.buffer.ty.dtype) != "int32" or not dtypes <= _SMALL:
        return None
    constant = any(kernel.params[i].same_as(contraction.right.load.source) for i in constants)
    return _plan(kernel, core, contraction, epilogue, constant)


def _plan(kernel: Kernel, core: Core, contraction: Contraction, epilogue: Epilogue, constant: bool) -> Plan:
    operands = Operands(kernel, core)
    depth = fuse(contraction.depth, contraction.left.place) or [Group(())]
    extent = math.prod(g.extent for g in depth) if all(isinstance(g.extent, int) for g in depth) else None
    left_dtype, right_dtype = (str(o.load.source.ty.dtype) for o in (contraction.left, contraction.right))
    dot = dot_of(core, left_dtype, right_dtype, contraction.column.extent, extent, constant)
    widen = _widened if dot.left == "int16" else None
    contraction = replace(contraction, left=operands.materialized(contraction.left, widen), right=operands.materialized(contraction.right))
    packed_depth, run = depth, padded_run(dot, depth[-1].extent)
    if dot.grain > 1 and not _direct(contraction.left.place, depth, dot):
        run = padded_run(dot, extent)
        packed_depth = [Group(tuple(a for g in depth for a in g.axes))]
        contraction, depth = _in_rows(operands, contraction, depth, run)
    rows = fuse(contraction.rows, contraction.left.place) or [Group(())]
    *outer, inner = rows
    while outer and isinstance(inner.extent, int) and inner.extent < 24 and inner.extent % 8:
        inner = Group((*outer.pop().axes, *inner.axes))
    total = math.prod((g.extent for g in depth[:-1]), start=run)
    tile = choose(core, dot, inner.extent, contraction.column.extent, total)
    right = _right(operands, contraction, packed_depth, run, total, tile, dot, constant)
    all_rows = Group(tuple(a for g in (*outer, inner) for a in g.axes)).extent
    first = columns_first(core, tile, all_rows, contraction.column.extent, total, bytes_each=1)
    left = Left(contraction.left.load.source, contraction.left.place)
    sharing = together(core, tile, inner.extent, total, bytes_each=1)
    product = Product(
        contraction, epilogue, tile, left, right, tuple(outer), inner, tuple(depth), first, multiply_dots(dot), sharing, dot.grain
    )
    factors = [left.buffer, right]
    others = [b for b in epilogue.operands() if not any(b.same_as(f) for f in factors)]
    function = kernel_function([*factors, *others, *kernel.outputs], kernel.sizes, product.code())
    in_place = [len(factors) + i for i in epilogue.in_place(others)]
    reads = [operands.source(b) for b in (*factors, *others)]
    step = Step(kernel.name, reads, kernel.outputs, function, list(range(len(kernel.outputs))), in_place)
    order = "columns" if first else "rows"
    return Plan(f"integer contraction {tile.rows}x{tile.columns} {dot.name}, {order} outside", [*operands.steps, step])


def _widened(value: Expr) -> Expr:
    from tvm import tirx

    return tirx.Cast("int16", value)


def _direct(place: Linear, depth: list[Group], dot: Dot) -> bool:
    """Whether the runs of the depth lie in memory as the instructions want them."""
    last = depth[-1]
    stride = place.stride(last.axes[-1]) if last.axes else 0
    return isinstance(stride, int) and stride == 1 and isinstance(last.extent, int) and last.extent % dot.grain == 0


def _in_rows(operands: Operands, contraction: Contraction, depth: list[Group], length: int) -> tuple[Contraction, list[Group]]:
    """The contraction with the whole depth of each row next to each other, copied."""
    from tvm import tirx

    source, place = contraction.left.load.source, contraction.left.place
    lines = Group((*contraction.batch, *contraction.rows))
    packed = tirx.decl_buffer([index(lines.extent * length)], str(source.ty.dtype), "left_rows")
    operands.add("rows", source, packed, pack_rows(source, place, lines, depth, length, packed))
    step = Axis(tirx.Var("k", "int64"), length)
    strides: dict[Any, Any] = {step.var: 1}
    stride: Any = length
    for axis in reversed(lines.axes):
        strides[axis.var] = stride
        stride = stride * axis.extent
    left = Operand(packed[(index(0),)], Linear(index(0), strides))
    return replace(contraction, left=left, depth=(step,)), [Group((step,))]


def _right(
    operands: Operands, contraction: Contraction, depth: list[Group], run: Any, total: Any, tile: Any, dot: Dot, constant: bool
) -> Any:
    """The packed right operand."""
    from tvm import tirx

    source = contraction.right.load.source
    packed = tirx.decl_buffer([packed_size(contraction, total, tile)], str(source.ty.dtype), "right_panels")
    if constant:
        operands.packed(source, packed, packer(contraction, depth, run, tile, dot))
    else:
        operands.add("right", source, packed, pack_right(source, contraction, depth, run, tile, dot, packed))
    return packed
