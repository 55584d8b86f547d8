"""The rule for contractions: matrix products, convolutions, batched products, with everything elementwise around them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from edgecc.targets.tvm_cpu.schedules.code import Buffer, index
from edgecc.targets.tvm_cpu.schedules.contraction import Contraction, Group, fuse, recognise
from edgecc.targets.tvm_cpu.schedules.core import Core
from edgecc.targets.tvm_cpu.schedules.epilogue import epilogue_of
from edgecc.targets.tvm_cpu.schedules.multiply import multiply_floats
from edgecc.targets.tvm_cpu.schedules.operands import Operands
from edgecc.targets.tvm_cpu.schedules.panels import pack_panels, packer
from edgecc.targets.tvm_cpu.schedules.pieces import ceil_divide
from edgecc.targets.tvm_cpu.schedules.plan import Plan, Step, kernel_function
from edgecc.targets.tvm_cpu.schedules.product import Left, Product
from edgecc.targets.tvm_cpu.schedules.stage import Kernel
from edgecc.targets.tvm_cpu.schedules.tiles import Tile, choose, columns_first, cost, together

_BYTES = 16  # of a vector in the table of cores: lanes are those of float32


def contract(kernel: Kernel, core: Core, constants: frozenset[int]) -> Plan | None:
    """The plan of a function with one contraction, None for any other function.

    `constants`: which parameters are constants wherever the function is called.
    """
    found = [(s, c) for s in kernel.stages if (c := recognise(kernel, s))]
    if len(found) != 1:
        return None
    stage, contraction = found[0]
    epilogue = epilogue_of(kernel, stage, contraction.column.var)
    dtype = str(stage.buffer.ty.dtype)
    if epilogue is None or not dtype.startswith("float") or contraction.form:
        return None
    constant = any(kernel.params[i].same_as(contraction.right.load.source) for i in constants)
    if not constant and (not contraction.rows or _small(Group(contraction.rows).extent)):
        return None
    return _Planner(kernel, core, contraction, epilogue, constant, _lanes(core, dtype, contraction.column.extent)).plan()


def _small(extent: Any) -> bool:
    return isinstance(extent, int) and extent < 4


def _lanes(core: Core, dtype: str, columns: Any) -> int:
    """Elements of a vector, fewer where the columns do not fill one."""
    lanes = core.lanes * 32 // int(dtype.removeprefix("float"))
    while isinstance(columns, int) and lanes > 4 and columns <= lanes // 2:
        lanes //= 2
    return lanes


@dataclass
class _Planner:
    kernel: Kernel
    core: Core
    contraction: Contraction
    epilogue: Any
    constant: bool
    lanes: int

    def plan(self) -> Plan:
        self.operands = Operands(self.kernel, self.core)
        contraction = self.contraction
        left = self.operands.materialized(contraction.left)
        right = self.operands.materialized(contraction.right)
        contraction = replace(contraction, left=left, right=right)
        depth = fuse(contraction.depth, left.place) or [Group(())]
        rows = fuse(contraction.rows, left.place) or [Group(())]
        outer, inner = self._tiled_rows(rows)
        tile, packed_left = self._tile(contraction, outer, inner, depth)
        if packed_left:
            depth = [Group(tuple(a for g in depth for a in g.axes))] if len(depth) == 1 else depth
        panel = self._pack_left(contraction, inner, depth, tile) if packed_left else Left(left.load.source, left.place)
        packed = self._pack_right(contraction, depth, tile)
        total = Group(tuple(a for g in depth for a in g.axes)).extent
        all_rows = Group(tuple(a for g in (*outer, inner) for a in g.axes)).extent
        first = columns_first(self.core, tile, all_rows, contraction.column.extent, total)
        if not isinstance(contraction.column.extent, int) or -(-contraction.column.extent // tile.columns) < 4:
            first = first and _small(all_rows if isinstance(all_rows, int) else 99)
        product = Product(
            contraction,
            self.epilogue,
            tile,
            panel,
            packed,
            tuple(outer),
            inner,
            tuple(depth),
            first,
            multiply_floats,
            together(self.core, tile, inner.extent, total),
        )
        factors = [product.left.buffer, product.right]
        operands = [b for b in self.epilogue.operands() if not any(b.same_as(f) for f in factors)]
        function = kernel_function([*factors, *operands, *self.kernel.outputs], self.kernel.sizes, product.code())
        sources = [self.operands.source(b) for b in (*factors, *operands)]
        in_place = [len(factors) + i for i in self.epilogue.in_place(operands)]
        outputs = list(range(len(self.kernel.outputs)))
        steps = [*self.operands.steps, Step(self.kernel.name, sources, self.kernel.outputs, function, outputs, in_place)]
        order = "columns" if first else "rows"
        return Plan(f"contraction {tile.rows}x{tile.columns} {tile.left}, {order} outside", steps)

    def _tiled_rows(self, rows: list[Group]) -> tuple[list[Group], Group]:
        """The rows that are walked one by one, and those that tiles cut: more than one group where the last is short."""
        *outer, inner = rows
        while outer and isinstance(inner.extent, int) and inner.extent < 24 and inner.extent % 8:
            inner = Group((*outer.pop().axes, *inner.axes))
        return outer, inner

    def _tile(self, contraction: Contraction, outer: list[Group], inner: Group, depth: list[Group]) -> tuple[Tile, bool]:
        core, n = self.core, contraction.column.extent
        k = Group(tuple(a for g in depth for a in g.axes)).extent
        step = contraction.left.place.stride(depth[-1].axes[-1]) if depth[-1].axes else 0
        even = isinstance(step, int) and step == 1
        direct = choose(core, self.lanes, inner.extent, n, k, left="lane" if core.by_lane and even else "broadcast")
        m = inner.extent if isinstance(inner.extent, int) else 64
        if not core.by_lane or outer or m < 2 * self.lanes or len(depth) > 1:
            return direct, False
        columns, length = (x if isinstance(x, int) else 64 for x in (n, k))
        panel = choose(core, self.lanes, inner.extent, n, k, left="panel")
        packing = m * length * 0.75  # for four elements a load, two shuffles and a store
        gains = cost(core, direct, m, columns, length) - cost(core, panel, m, columns, length)
        return (panel, True) if gains > packing else (direct, False)

    # -- operands

    def _pack_left(self, contraction: Contraction, inner: Group, depth: list[Group], tile: Tile) -> Left:
        from tvm import tirx

        batch = Group(contraction.batch)
        source, place = contraction.left.load.source, contraction.left.place
        length = Group(tuple(a for g in depth for a in g.axes)).extent
        size = batch.extent * ceil_divide(inner.extent, tile.rows) * length * tile.rows
        packed = tirx.decl_buffer([index(size)], str(source.ty.dtype), "left_panels")
        code = pack_panels(source, place, batch, inner, depth, tile.rows, packed)
        self.operands.add("left", source, packed, code)
        return Left(packed, place, tile.rows)

    def _pack_right(self, contraction: Contraction, depth: list[Group], tile: Tile) -> Buffer:
        from tvm import tirx

        source, place = contraction.right.load.source, contraction.right.place
        n, batch = contraction.column.extent, Group(contraction.batch)
        length = Group(tuple(a for g in depth for a in g.axes)).extent
        last = None
        if isinstance(n, int):
            rest = n % tile.columns
            last = -(-rest // tile.lanes) * tile.lanes if rest else None
            width: Any = n // tile.columns * tile.columns + (last or 0)
        else:
            width = ceil_divide(n, tile.columns) * tile.columns
        packed = tirx.decl_buffer([index(batch.extent * length * width)], str(source.ty.dtype), "right_panels")
        if self.constant:
            self.operands.packed(source, packed, packer(contraction, depth, tile))
            return packed
        code = pack_panels(source, place, batch, Group((contraction.column,)), depth, tile.columns, packed, last)
        self.operands.add("right", source, packed, code)
        return packed
