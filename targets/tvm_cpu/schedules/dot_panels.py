"""Dot panels: operands of a product of 8-bit integers in the order in which its tiles read them.

The right operand becomes panels `[batch, panel, depth / group, columns, group]`, the left one, where its runs of the depth
are not as the instructions want them, rows `[batch, row, depth]` with zeros at their ends.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgecc.targets.tvm_cpu.schedules.access import Linear, size_of
from edgecc.targets.tvm_cpu.schedules.code import Buffer, Code, Expr, index, vector
from edgecc.targets.tvm_cpu.schedules.contraction import Contraction, Group
from edgecc.targets.tvm_cpu.schedules.dots import Dot
from edgecc.targets.tvm_cpu.schedules.pieces import ceil_divide, chunks
from edgecc.targets.tvm_cpu.schedules.plan import Pack
from edgecc.targets.tvm_cpu.schedules.tiles import Tile


def padded_run(dot: Dot, extent: Any) -> Any:
    """Steps of a run of the depth in the packed operand."""
    return extent if dot.grain == 1 else -(-extent // dot.grain) * dot.grain


def packer(contraction: Contraction, depth: Sequence[Group], run: int, tile: Tile, dot: Dot) -> Pack:
    """What packs a constant right operand: an array of any shape to one of rank 1. `run`: steps of a run of the depth."""
    place = contraction.right.place
    base = int(place.base)
    axes = [*contraction.batch, *(a for g in depth for a in g.axes), contraction.column]
    strides = [int(place.stride(a)) for a in axes]
    extents = [int(a.extent) for a in axes]
    batches, columns = len(contraction.batch), extents[-1]
    steps = math.prod(extents[batches:-1]) // (math.prod(int(a.extent) for a in depth[-1].axes) or 1)

    def pack(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        flat = np.ascontiguousarray(array).reshape(-1)
        view = np.lib.stride_tricks.as_strided(flat[base:], extents, [s * flat.itemsize for s in strides], writeable=False)
        runs = view.reshape(math.prod(extents[:batches]), steps, -1, columns)
        filled = np.zeros((*runs.shape[:2], run, columns), flat.dtype)
        filled[:, :, : runs.shape[2]] = runs
        parts = []
        for first in range(0, columns, tile.columns):
            wanted = min(tile.columns, -(-(columns - first) // tile.lanes) * tile.lanes)
            panel = np.zeros((*filled.shape[:3], wanted), flat.dtype)
            found = filled[..., first : first + wanted]
            panel[..., : found.shape[3]] = found
            parts.append(_grouped(panel, dot.group))
        return np.ascontiguousarray(np.concatenate(parts, axis=1)).reshape(-1)

    return pack


def _grouped(panel: np.ndarray[Any, Any], group: int) -> np.ndarray[Any, Any]:
    """[batch, runs, run, columns] as [batch, everything], `group` steps of a column next to each other; fewer at the end of a run."""
    batch, runs, run, columns = panel.shape
    whole = run // group * group
    first = panel[:, :, :whole].reshape(batch, runs, -1, group, columns).swapaxes(3, 4).reshape(batch, runs, -1)
    last = panel[:, :, whole:].swapaxes(2, 3).reshape(batch, runs, -1)
    return np.concatenate([first, last], axis=2).reshape(batch, -1)


def pack_right(source: Buffer, contraction: Contraction, depth: Sequence[Group], run: int, tile: Tile, dot: Dot, packed: Buffer) -> Code:
    """Code that writes the panels of an operand that is computed. Columns beyond the last are copies of it."""
    from tvm import tirx

    code = Code()
    place, column = contraction.right.place, contraction.column
    batch, panels = Group(contraction.batch), ceil_divide(column.extent, tile.columns)
    around, last = Group(tuple(a for g in depth[:-1] for a in g.axes)), depth[-1]
    with code.loop("p", batch.extent * panels, "parallel") as p:
        flat, out = code.flat(source, size_of(source)), code.flat(packed, size_of(packed))
        panel, entry = tirx.floormod(index(p), index(panels)), tirx.floordiv(index(p), index(panels))
        where = batch.split(entry)

        def write(width: int) -> None:
            size = around.extent * run * tile.columns
            whole = around.extent * run * _width(column.extent, tile)
            target = code.bind("target", entry * whole + panel * size)
            with code.loop("j", width) as j:
                line = {**where, column.var: tirx.min(panel * tile.columns + j, index(column.extent) - 1)}
                with code.loop("d", around.extent) as d, code.loop("k", last.extent) as k:
                    inside = {**line, **around.split(d), **last.split(k)}
                    lane = (d * run + tirx.floordiv(k, index(dot.group)) * dot.group) * width
                    group: Any = dot.group
                    if run % dot.group:
                        group = tirx.Select(k >= run // dot.group * dot.group, index(run % dot.group), index(dot.group))
                    code.store(out, [target + lane + j * group + tirx.floormod(k, index(dot.group))], flat[place.at(inside)])
                beyond = run - last.extent if isinstance(last.extent, int) else 0
                for extra in range(beyond):
                    k = last.extent + extra
                    group = run % dot.group if k >= run // dot.group * dot.group else dot.group
                    with code.loop("d", around.extent) as d:
                        lane = (d * run + k // dot.group * dot.group) * width
                        code.store(out, [target + lane + j * group + k % dot.group], tirx.const(0, str(packed.ty.dtype)))

        rest = _width(column.extent, tile) % tile.columns if isinstance(column.extent, int) else 0
        if not rest:
            write(tile.columns)
            return code
        with code.when(panel < panels - 1):
            write(tile.columns)
        with code.when(panel >= panels - 1):
            write(rest)
    return code


def packed_size(contraction: Contraction, steps: Any, tile: Tile) -> Any:
    """Elements of the packed right operand, `steps` of the depth in each column."""
    return index(Group(contraction.batch).extent * steps * _width(contraction.column.extent, tile))


def _width(columns: Any, tile: Tile) -> Any:
    """Columns of all panels, the last as many whole registers as it needs."""
    if not isinstance(columns, int):
        return ceil_divide(columns, tile.columns) * tile.columns
    whole, rest = divmod(columns, tile.columns)
    return whole * tile.columns + -(-rest // tile.lanes) * tile.lanes


def pack_rows(source: Buffer, place: Linear, lines: Group, depth: Sequence[Group], length: int, packed: Buffer) -> Code:
    """Code that copies the whole depth of each line next to each other, and zeros up to `length`."""
    from tvm import tirx

    code = Code()
    *around, last = depth
    stride = place.stride(last.axes[-1]) if last.axes else 0
    with code.loop("line", lines.extent, "parallel") as line:
        flat, out = code.flat(source, size_of(source)), code.flat(packed, size_of(packed))
        base = code.bind("base", place.at(lines.split(line)))
        target = code.bind("target", line * length)

        def copy(groups: Sequence[Group], at: Expr, done: Expr) -> None:
            if groups:
                group, *rest = groups
                inner = math.prod(int(g.extent) for g in (*rest, last))
                with code.loop("d", group.extent) as d:
                    copy(rest, at + d * place.stride(group.axes[-1]), done + d * inner)
                return
            if stride != 1:
                with code.loop("k", last.extent) as k:
                    code.store(out, [target + done + k], flat[base + (at + k * stride)])
                return
            with code.loop("v", last.extent // 16) as v:
                code.store(out, [vector(target + done + v * 16, 16)], flat[vector(base + at + v * 16, 16)])
            for start, width in chunks(last.extent % 16):
                start += last.extent // 16 * 16
                code.store(out, [vector(target + done + start, width)], flat[vector(base + at + start, width)])

        copy(around, index(0), index(0))
        total = math.prod(int(g.extent) for g in depth)
        for k in range(total, length):
            code.store(out, [target + k], tirx.const(0, str(packed.ty.dtype)))
    return code
