"""Multiply: the inner loops of a product of floats, a step of the depth at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgecc.targets.tvm_cpu.schedules.code import Buffer, Code, Expr, index, splat, vector
from edgecc.targets.tvm_cpu.schedules.contraction import Group
from edgecc.targets.tvm_cpu.schedules.pieces import ceil_divide
from edgecc.targets.tvm_cpu.schedules.product import Place, Product

VECTOR = 4  # elements along the depth that are loaded at once and multiplied by lane


#: The vector of the packed right operand for step `k`, columns from `column` on: `load(right, at, k, column, width, lanes)`.
Load = Callable[[Buffer, Expr, int, int, int, int], Expr]
Run = Callable[[Group, Expr, Expr], None]


def multiply_floats(code: Code, product: Product, buffers: tuple[Buffer, Buffer], place: Place, sums: Buffer) -> None:
    """Write `sums += left * right`; see `product.Multiply`."""
    run = float_run(code, product, buffers, row_bases(code, product, place), place, sums, _plain)
    if product.left.panel:
        run(Group(tuple(a for g in product.depth for a in g.axes)), index(0), place.right)
    else:
        walk_depth(code, product, place.right, place.vectors * product.tile.lanes, run)


def _plain(right: Buffer, at: Expr, k: int, column: int, width: int, lanes: int) -> Expr:
    return right[vector(at + k * width + column, lanes)]


def float_run(
    code: Code,
    product: Product,
    buffers: tuple[Buffer, Buffer],
    bases: Sequence[Expr],
    place: Place,
    sums: Buffer,
    load: Load,
    density: int = 1,
) -> Run:
    """What writes the products of one group of the depth: `run(group, at_left, at_right)`.

    `bases`: see `row_bases`. `density`: steps of the depth in an element of the right operand.
    """
    from tvm import tirx

    left, right = buffers
    tile, lanes, height, vectors = product.tile, product.tile.lanes, place.height, place.vectors
    dtype = str(sums.ty.dtype)
    width = vectors * lanes
    last = product.depth[-1]
    stride = product.left.place.stride(last.axes[-1]) if last.axes else 0
    by_lane = not product.left.panel and tile.left == "lane" and isinstance(stride, int) and stride == 1

    def advance(steps: int, at_left: Expr, at_right: Expr, by_lane: bool) -> None:
        """`steps` steps from these offsets on."""
        values: list[Buffer] = []
        for k in range(steps):
            if by_lane and k % VECTOR == 0:
                values = []
                for i in range(height):
                    held = code.local(f"a{i}", VECTOR, dtype)
                    code.store(held, [vector(0, VECTOR)], left[vector(bases[i] + at_left + k, VECTOR)])
                    values.append(held)
            across = []
            if product.left.panel:
                held = code.local(f"a{k}", tile.rows, dtype)
                for q in range(0, tile.rows, lanes):
                    code.store(held, [vector(q, lanes)], left[vector(bases[0] + (at_left + k) * tile.rows + q, lanes)])
                values = [held]
            for j in range(vectors):
                held = code.local(f"b{k}_{j}", lanes, dtype)
                code.store(held, [vector(0, lanes)], load(right, at_right, k, j * lanes, width, lanes))
                across.append(held)
            for i in range(height):
                if by_lane:
                    factor = values[i][index(k % VECTOR)]
                elif product.left.panel:
                    factor = values[0][index(i)]
                else:
                    factor = left[bases[i] + (at_left + index(k) * stride)]
                for j in range(vectors):
                    at = vector((i * vectors + j) * lanes, lanes)
                    code.store(sums, [at], sums[at] + splat(factor, lanes) * across[j][vector(0, lanes)])

    def run(group: Group, at_left: Expr, at_right: Expr) -> None:
        extent, steps = group.extent, tile.steps
        step = 1 if product.left.panel else stride
        whole = extent // steps if isinstance(extent, int) else tirx.floordiv(index(extent), index(steps))
        with code.loop("k", whole) as k:
            advance(steps, at_left + k * steps * step, at_right + k * (steps * width // density), by_lane)
        if isinstance(extent, int):
            done = whole * steps
            if by_lane and extent - done >= VECTOR:
                advance(VECTOR, at_left + done * step, at_right + done * width // density, True)
                done += VECTOR
            if extent > done:
                advance(extent - done, at_left + done * step, at_right + done * width // density, False)
        else:
            with code.loop("k", index(extent) - whole * steps) as k:
                done = whole * steps + k
                advance(1, at_left + done * step, at_right + done * width, False)

    return run


def row_bases(code: Code, product: Product, place: Place) -> list[Expr]:
    """Where each row of a tile begins in the left operand; the one beginning of a packed panel. Rows beyond the last are the last."""
    from tvm import tirx

    if product.left.panel:
        blocks = ceil_divide(product.inner.extent, product.tile.rows)
        return [code.bind("panel", (place.batch * blocks + place.block) * (index(product.length) * product.tile.rows))]
    bases = []
    for i in range(place.height):
        row = place.start + i
        if not isinstance(place.rows, int):
            row = tirx.min(row, index(product.inner.extent) - 1)
        bases.append(code.bind(f"row{i}", product.left.place.at({**place.where, **product.inner.split(row)})))
    return bases


def walk_depth(code: Code, product: Product, right: Expr, width: int, run: Callable[[Group, Expr, Expr], None]) -> None:
    """Call `run(group, at_left, at_right)` for the innermost group of the depth, in loops over the others.

    `at_left`: the offset from the beginning of a row; `at_right`: in the packed operand. `width`: elements of a step of it.
    """
    *around, last = product.depth

    def nest(groups: Sequence[Group], at_left: Expr, at_right: Expr) -> None:
        if not groups:
            run(last, at_left, at_right)
            return
        group, *rest = groups
        length = width * product.run
        for g in rest:
            length = length * g.extent
        with code.loop("d", group.extent) as d:
            step = product.left.place.stride(group.axes[-1]) if group.axes else 0
            nest(rest, at_left + d * step, at_right + d * length)

    nest(around, index(0), right)
