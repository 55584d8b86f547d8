"""Panels: operands of a product in the order in which its tiles read them.

The right operand becomes panels of `width` columns, `[batch, panel, depth, width]`, the last panel as many whole
vectors as it needs; the left one panels of `height` rows, `[batch, panel, depth, height]`. Constants are packed at
compile time, anything else by a kernel. Goto and van de Geijn 2008, section 4.2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgecc.targets.tvm_cpu.schedules.access import Linear, size_of
from edgecc.targets.tvm_cpu.schedules.code import Buffer, Code, Expr, index, vector
from edgecc.targets.tvm_cpu.schedules.contraction import Contraction, Group
from edgecc.targets.tvm_cpu.schedules.pieces import ceil_divide
from edgecc.targets.tvm_cpu.schedules.plan import Pack
from edgecc.targets.tvm_cpu.schedules.tiles import Tile


def packer(contraction: Contraction, depth: Sequence[Group], tile: Tile) -> Pack:
    """What packs a constant right operand: an array of any shape to one of rank 1."""
    place = contraction.right.place
    base = int(place.base)
    axes = [*contraction.batch, *(a for g in depth for a in g.axes), contraction.column]
    strides = [int(place.stride(a)) for a in axes]
    extents = [int(a.extent) for a in axes]
    batches, columns = len(contraction.batch), extents[-1]

    def pack(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        flat = np.ascontiguousarray(array).reshape(-1)
        item = flat.itemsize
        view = np.lib.stride_tricks.as_strided(flat[base:], extents, [s * item for s in strides], writeable=False)
        matrix = view.reshape(math.prod(extents[:batches]), math.prod(extents[batches:-1]), columns)
        whole, rest = divmod(columns, tile.columns)
        full = matrix[:, :, : whole * tile.columns].reshape(*matrix.shape[:2], whole, tile.columns).transpose(0, 2, 1, 3)
        parts = [full.reshape(len(matrix), full[0].size)]
        if rest:
            width = -(-rest // tile.lanes) * tile.lanes
            last = np.zeros((*matrix.shape[:2], width), flat.dtype)
            last[:, :, :rest] = matrix[:, :, whole * tile.columns :]
            parts.append(last.reshape(len(matrix), -1))
        return np.ascontiguousarray(np.concatenate(parts, axis=1)).reshape(-1)

    return pack


def pack_panels(
    source: Buffer, place: Linear, batch: Group, lines: Group, depth: Sequence[Group], width: int, packed: Buffer, last: int | None = None
) -> Code:
    """Code that writes panels of `width` lines (the rows or the columns of an operand) for each step of the depth.

    What is beyond the last line is a copy of the last line: the tiles do not keep what they make of it. `last`: the
    width of the last panel, where it is less.
    """
    from tvm import tirx

    code = Code()
    panels = ceil_divide(lines.extent, width)
    length: Any = 1
    for group in depth:
        length = length * group.extent
    with code.loop("p", batch.extent * panels, "parallel") as p:
        flat, out = code.flat(source, size_of(source)), code.flat(packed, size_of(packed))
        panel = tirx.floormod(index(p), index(panels))
        entry = tirx.floordiv(index(p), index(panels))
        per_entry = index(length) * panels * width if last is None else index(length) * ((int(panels) - 1) * width + last)
        where = batch.split(entry)
        bases = []
        for i in range(width):
            line = tirx.min(panel * width + i, index(lines.extent) - 1)
            bases.append(code.bind(f"line{i}", place.at({**where, **lines.split(line)})))
        target = code.bind("target", entry * per_entry + panel * (index(length) * width))

        def copy(lines_here: int, around: list[Group], at: Expr, done: Expr) -> None:
            group, *rest = around
            stride = place.stride(group.axes[-1]) if group.axes else 0
            if rest:
                inner: Any = 1
                for g in rest:
                    inner = inner * g.extent
                with code.loop("d", group.extent) as d:
                    copy(lines_here, rest, at + d * stride, done + d * inner)
                return
            blocks = group.extent // 4 if isinstance(group.extent, int) else tirx.floordiv(index(group.extent), index(4))
            transposes = isinstance(stride, int) and stride == 1 and lines_here % 4 == 0
            if transposes:
                with code.loop("k", blocks) as k:
                    for q in range(0, lines_here, 4):
                        _transpose(
                            code,
                            flat,
                            [b + (at + k * 4) for b in bases[q : q + 4]],
                            out,
                            target + (done + k * 4) * lines_here + q,
                            lines_here,
                        )
            start = blocks * 4 if transposes else 0
            with code.loop("k", group.extent - start) as k:
                for i in range(lines_here):
                    code.store(out, [target + (done + start + k) * lines_here + i], flat[bases[i] + (at + (index(start) + k) * stride)])

        groups = list(depth) or [Group(())]
        if last is None or last == width:
            copy(width, groups, index(0), index(0))
        else:
            with code.when(panel < panels - 1):
                copy(width, groups, index(0), index(0))
            with code.when(panel >= panels - 1):
                copy(last, groups, index(0), index(0))
    return code


def _transpose(code: Code, source: Buffer, rows: Sequence[Expr], out: Buffer, target: Expr, step: int) -> None:
    """Four elements of each of four rows, stored with the rows next to each other."""
    from tvm import tirx

    dtype = str(source.ty.dtype)
    held = []
    for i, row in enumerate(rows):
        buffer = code.local(f"r{i}", 4, dtype)
        code.store(buffer, [vector(0, 4)], source[vector(row, 4)])
        held.append(buffer)
    for k in range(4):
        lanes = [tirx.const(i * 4 + k, "int32") for i in range(4)]
        code.store(out, [vector(target + k * step, 4)], tirx.Shuffle([h[vector(0, 4)] for h in held], lanes))
