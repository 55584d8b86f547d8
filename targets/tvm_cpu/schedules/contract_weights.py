"""The rule for products of floats and constants that are stored as integers: they become floats in registers, as they are used.

With a scale for each group of the depth the products of a group are summed by themselves, and scaled once: the arithmetic of
a step is that of floats, and the conversion of a register of weights serves all rows of a tile.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from edgecc.targets.tvm_cpu.schedules.access import linear
from edgecc.targets.tvm_cpu.schedules.code import Buffer, Code, Expr, index, splat, vector
from edgecc.targets.tvm_cpu.schedules.contraction import Contraction, Group, Operand, fuse, recognise
from edgecc.targets.tvm_cpu.schedules.core import Core
from edgecc.targets.tvm_cpu.schedules.epilogue import Epilogue, epilogue_of
from edgecc.targets.tvm_cpu.schedules.multiply import Load, float_run, row_bases, walk_depth
from edgecc.targets.tvm_cpu.schedules.operands import Operands
from edgecc.targets.tvm_cpu.schedules.panels import packer
from edgecc.targets.tvm_cpu.schedules.plan import Plan, Step, kernel_function
from edgecc.targets.tvm_cpu.schedules.product import Left, Multiply, Place, Product
from edgecc.targets.tvm_cpu.schedules.stage import Axis, Kernel
from edgecc.targets.tvm_cpu.schedules.tiles import Tile, choose, columns_first, together
from edgecc.targets.tvm_cpu.schedules.weight_form import WeightForm, nibble


def contract_weights(kernel: Kernel, core: Core, constants: frozenset[int]) -> Plan | None:
    """The plan of a function with one product by constants that are stored as integers, None for any other function."""
    found = [(s, c) for s in kernel.stages if (c := recognise(kernel, s))]
    if len(found) != 1 or found[0][1].form is None:
        return None
    stage, contraction = found[0]
    epilogue = epilogue_of(kernel, stage, contraction.column.var)
    held = [kernel.params[i] for i in constants]
    if epilogue is None or contraction.batch or not _is_constant(contraction, held):
        return None
    return _plan(kernel, core, contraction, epilogue)


def _is_constant(contraction: Contraction, held: list[Buffer]) -> bool:
    form = contraction.form
    assert form is not None
    needed = [x.source for x in (contraction.right.load, form.scale, form.shift) if x is not None]
    static = all(isinstance(a.extent, int) for a in (*contraction.depth, contraction.column))
    return static and all(any(b.same_as(h) for h in held) for b in needed)


@dataclass(frozen=True)
class _Scales:
    """Packed scales and shifts, `[panel, group, columns]`, and the loop over groups. `shift`: None where there are none."""

    group: Group
    scale: Buffer
    shift: Buffer | None


def _plan(kernel: Kernel, core: Core, contraction: Contraction, epilogue: Epilogue) -> Plan:
    form = contraction.form
    assert form is not None
    operands = Operands(kernel, core)
    contraction = replace(contraction, left=operands.materialized(contraction.left))
    depth, stored = _depth(contraction, form)
    *outer, inner = fuse(contraction.rows, contraction.left.place) or [Group(())]
    total = Group(tuple(a for g in depth for a in g.axes)).extent
    columns, place = contraction.column.extent, contraction.left.place
    even = depth[-1].axes and place.stride(depth[-1].axes[-1]) == 1
    fitting = replace(core, registers=core.registers // 2 + 2) if form.scale is not None else core  # sums twice, and their scales
    tile = choose(fitting, _lanes(core, columns), inner.extent, columns, total, left="lane" if core.by_lane and even else "broadcast")
    codes = _packed(operands, contraction, contraction.right, stored, tile, "codes")
    scales = None
    if form.scale is not None:
        scale, shift = (
            _packed(operands, contraction, _operand(x, contraction), depth[:1], tile, "scales") for x in (form.scale, form.shift)
        )
        scales = _Scales(depth[0], scale, shift)
    rows = Group(tuple(a for g in (*outer, inner) for a in g.axes)).extent
    first = columns_first(core, tile, rows, columns, total, bytes_each=1)
    product = Product(
        contraction, epilogue, tile, Left(contraction.left.load.source, place), codes, tuple(outer), inner, tuple(depth), first,
        _multiply(form, scales), together(core, tile, inner.extent, total), density=form.density,
    )  # fmt: skip
    factors = (
        [product.left.buffer, codes, *(b for b in (scales.scale, scales.shift) if b is not None)]
        if scales
        else [product.left.buffer, codes]
    )
    others = [b for b in epilogue.operands() if not any(b.same_as(f) for f in factors)]
    function = kernel_function([*factors, *others, *kernel.outputs], kernel.sizes, product.code())
    reads = [operands.source(b) for b in (*factors, *others)]
    in_place = [len(factors) + i for i in epilogue.in_place(others)]
    step = Step(kernel.name, reads, kernel.outputs, function, list(range(len(kernel.outputs))), in_place)
    bits = 8 // form.density
    return Plan(f"contraction {tile.rows}x{tile.columns} {tile.left}, weights of {bits} bits", [*operands.steps, step])


def _depth(contraction: Contraction, form: WeightForm) -> tuple[list[Group], list[Group]]:
    """The depth as the tiles walk it, the groups of scales first, and as the codes are stored: two in a byte are one there."""
    axes = list(contraction.depth)
    grouped: list[Axis] = []
    if form.scale is not None:
        scaled = _operand(form.scale, contraction)
        assert scaled is not None
        grouped = [a for a in axes if scaled.place.stride(a) != 0]
    rest = [a for a in axes if a not in grouped]
    halves = [a for a in rest if form.half is not None and form.half.same_as(a.var)]
    inner = fuse(tuple(rest), contraction.left.place) or [Group(())]
    outer = [Group(tuple(grouped))] if form.scale is not None else []
    stored = [Group(tuple(a for a in g.axes if a not in halves)) for g in inner]
    return [*outer, *inner], [*outer, *stored]


def _operand(load: Any, contraction: Contraction) -> Operand | None:
    """A load of scales as an operand."""
    if load is None:
        return None
    place = linear(load, [a.var for a in (*contraction.depth, contraction.column)])
    assert place is not None, "scales are read at groups and columns"
    return Operand(load, place)


def _packed(operands: Operands, contraction: Contraction, operand: Operand | None, depth: list[Group], tile: Tile, name: str) -> Any:
    """A constant operand in panels of columns."""
    from tvm import tirx

    if operand is None:
        return None
    source = operand.load.source
    steps = Group(tuple(a for g in depth for a in g.axes)).extent
    whole, rest = divmod(contraction.column.extent, tile.columns)
    width = whole * tile.columns + -(-rest // tile.lanes) * tile.lanes
    packed = tirx.decl_buffer([index(steps * width)], str(source.ty.dtype), f"{name}_panels")
    operands.packed(source, packed, packer(replace(contraction, right=operand), depth, tile))
    return packed


def _lanes(core: Core, columns: int) -> int:
    lanes = core.lanes
    while lanes > 4 and columns <= lanes // 2:
        lanes //= 2
    return lanes


def _multiply(form: WeightForm, scales: _Scales | None) -> Multiply:
    load: Load = _bytes if form.half is None else _halves

    def multiply(code: Code, product: Product, buffers: tuple[Buffer, Buffer], place: Place, sums: Buffer) -> None:
        bases = row_bases(code, product, place)
        width = place.vectors * product.tile.lanes
        if scales is None:
            run = float_run(code, product, buffers, bases, place, sums, load, form.density)
            if form.density == 1:
                walk_depth(code, product, place.right, width, run)
            else:
                run(product.depth[-1], index(0), place.right)
            return
        _by_groups(code, product, buffers, bases, place, sums, load, form.density, scales)

    return multiply


def _by_groups(
    code: Code, product: Product, buffers: tuple[Buffer, Buffer], bases: list[Expr], place: Place, sums: Buffer, load: Load,
    density: int, scales: _Scales,
) -> None:  # fmt: skip
    """`sums += scale * (sum of the products of a group)`, and `shift` times the sum of the group's left elements."""
    from tvm import tirx

    lanes, height, vectors = product.tile.lanes, place.height, place.vectors
    width = vectors * lanes
    group, last = scales.group, product.depth[-1]
    step = product.left.place.stride(group.axes[-1]) if group.axes else 0
    inner = product.left.place.stride(last.axes[-1]) if last.axes else 0
    steps = last.extent * width // density
    with code.loop("g", group.extent) as g:
        parts = code.local("parts", height * width, "float32")
        for q in range(height * vectors):
            code.store(parts, [vector(q * lanes, lanes)], splat(tirx.const(0, "float32"), lanes))
        float_run(code, product, buffers, bases, place, parts, load, density)(last, g * step, place.right + g * steps)
        at = place.panel * (group.extent * product.tile.columns) + g * width
        totals = None
        if scales.shift is not None:
            totals = code.local("totals", height, "float32")
            for i in range(height):
                code.store(totals, [i], tirx.const(0, "float32"))
            with code.loop("k", last.extent) as k:
                for i in range(height):
                    code.store(totals, [i], totals[index(i)] + buffers[0][bases[i] + (g * step + k * inner)])
        for j in range(vectors):
            scale = code.bind("scale", scales.scale[vector(at + j * lanes, lanes)])
            shift = code.bind("shift", scales.shift[vector(at + j * lanes, lanes)]) if scales.shift is not None else None
            for i in range(height):
                here = vector((i * vectors + j) * lanes, lanes)
                value = sums[here] + parts[here] * scale
                if totals is not None:
                    value = value + splat(totals[index(i)], lanes) * shift
                code.store(sums, [here], value)


def _bytes(right: Buffer, at: Expr, k: int, column: int, width: int, lanes: int) -> Expr:
    from tvm import tirx

    return tirx.Cast(f"float32x{lanes}", right[vector(at + k * width + column, lanes)])


def _halves(right: Buffer, at: Expr, k: int, column: int, width: int, lanes: int) -> Expr:
    """Two steps of the depth in a byte, the first in its lower half."""
    from tvm import tirx

    byte = right[vector(at + k // 2 * width + column, lanes)]
    return tirx.Cast(f"float32x{lanes}", nibble(byte, k % 2, lanes))
