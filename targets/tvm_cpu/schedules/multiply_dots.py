"""Multiply dots: the inner loops of a product of 8-bit integers, for each kind of instruction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edgecc.targets.tvm_cpu.schedules.code import Buffer, Code, Expr, index, splat, vector
from edgecc.targets.tvm_cpu.schedules.contraction import Group
from edgecc.targets.tvm_cpu.schedules.dots import Dot
from edgecc.targets.tvm_cpu.schedules.multiply import row_bases, walk_depth
from edgecc.targets.tvm_cpu.schedules.product import Multiply, Place, Product


@dataclass(frozen=True)
class _Tile:
    """A tile under construction. `rows`: where each row begins in `left`; `width`: columns of `sums`."""

    code: Code
    left: Buffer
    right: Buffer
    rows: list[Expr]
    width: int
    sums: Buffer

    def of_left(self, row: int, at: Expr, count: int) -> Expr:
        return self.left[vector(self.rows[row] + at, count)]

    def of_right(self, at: Expr, count: int) -> Expr:
        return self.right[vector(at, count)]

    def bind(self, name: str, value: Expr) -> Expr:
        return self.code.bind(name, value)

    def put(self, buffer: Buffer, at: int, value: Expr) -> None:
        self.code.store(buffer, [vector(at, int(value.ty.dtype.lanes))], value)


#: Writes the products of `steps` steps of the depth at these offsets.
Advance = Callable[[_Tile, int, Expr, Expr], None]


def multiply_dots(dot: Dot) -> Multiply:
    """What writes `sums += left * right` with these instructions."""
    begin = {"smlal": _smlal, "smull": _smlal, "smmla": _smmla, "sdot": _sdot, "vnni": _vnni, "madd": _madd, "any": _any}[dot.name]

    def multiply(code: Code, product: Product, buffers: tuple[Buffer, Buffer], place: Place, sums: Buffer) -> None:
        from tvm import tirx

        tile = _Tile(code, *buffers, row_bases(code, product, place), place.vectors * dot.lanes, sums)
        stride = product.left.place.stride(product.depth[-1].axes[-1]) if product.depth[-1].axes else 0
        advance, finish = begin(tile, dot, stride)

        def run(group: Group, at_left: Expr, at_right: Expr) -> None:
            extent = group.extent
            whole = extent // dot.chunk if isinstance(extent, int) else tirx.floordiv(index(extent), index(dot.chunk))
            step = stride if dot.name == "any" else 1
            with code.loop("k", whole) as k:
                advance(tile, dot.chunk, at_left + k * (dot.chunk * step), at_right + k * (dot.chunk * tile.width))
            if isinstance(extent, int):
                if extent % dot.chunk:
                    done = whole * dot.chunk
                    advance(tile, extent - done, at_left + done * step, at_right + done * tile.width)
                return
            with code.loop("k", index(extent) - whole * dot.chunk) as k:
                done = whole * dot.chunk + k
                advance(tile, 1, at_left + done * step, at_right + done * tile.width)

        walk_depth(code, product, place.right, tile.width, run)
        finish()

    return multiply


def _nothing() -> None:
    """The sums are where they belong already."""


Kind = tuple[Advance, Callable[[], None]]


def _vnni(tile: _Tile, dot: Dot, stride: Any) -> Kind:
    """VPDPBUSD: four products of an unsigned byte of the left and a signed one of the right in each lane."""
    lanes, name = dot.lanes, f"llvm.x86.avx512.vpdpbusd.{dot.lanes * 32}"

    def advance(tile: _Tile, steps: int, at_left: Expr, at_right: Expr) -> None:
        for k in range(0, steps, 4):
            width = tile.width * k
            right = [tile.bind("w", tile.of_right(at_right + width + j * 4, lanes * 4)) for j in range(0, tile.width, lanes)]
            for i in range(len(tile.rows)):
                a = _reinterpret(f"uint8x{lanes * 4}", splat(_reinterpret("int32", tile.of_left(i, at_left + k, 4)), lanes))
                a = tile.bind("a", a)
                for j, w in enumerate(right):
                    at = i * tile.width + j * lanes
                    tile.put(tile.sums, at, _call(f"int32x{lanes}", name, tile.sums[vector(at, lanes)], a, w))

    return advance, _nothing


def _madd(tile: _Tile, dot: Dot, stride: Any) -> Kind:
    """PMADDWD: two products of 16-bit integers in each lane, the right operand widened as it is loaded."""
    name = {4: "llvm.x86.sse2.pmadd.wd", 8: "llvm.x86.avx2.pmadd.wd", 16: "llvm.x86.avx512.pmaddw.d.512"}[dot.lanes]
    lanes, pairs = dot.lanes, f"int16x{dot.lanes * 2}"

    def advance(tile: _Tile, steps: int, at_left: Expr, at_right: Expr) -> None:
        from tvm import tirx

        for k in range(0, steps, 2):
            width = tile.width * k
            right = [
                tile.bind("w", tirx.Cast(pairs, tile.of_right(at_right + width + j * 2, lanes * 2))) for j in range(0, tile.width, lanes)
            ]
            for i in range(len(tile.rows)):
                a = tile.bind("a", _reinterpret(pairs, splat(_reinterpret("int32", tile.of_left(i, at_left + k, 2)), lanes)))
                for j, w in enumerate(right):
                    at = i * tile.width + j * lanes
                    tile.put(tile.sums, at, tile.sums[vector(at, lanes)] + _call(f"int32x{lanes}", name, a, w))

    return advance, _nothing


def _sdot(tile: _Tile, dot: Dot, stride: Any) -> Kind:
    """SDOT: four products in each lane, the left operand by lane."""
    name = "llvm.aarch64.neon.sdot.v4i32.v16i8"

    def advance(tile: _Tile, steps: int, at_left: Expr, at_right: Expr) -> None:
        whole = steps == dot.chunk
        held = [tile.bind("a", _reinterpret("int32x4", tile.of_left(i, at_left, 16))) for i in range(len(tile.rows))] if whole else []
        for u in range(steps // 4):
            right = [tile.bind("w", tile.of_right(at_right + (u * tile.width + j) * 4, 16)) for j in range(0, tile.width, 4)]
            for i in range(len(tile.rows)):
                four = _shuffle([held[i]], [u] * 4) if whole else splat(_reinterpret("int32", tile.of_left(i, at_left + u * 4, 4)), 4)
                a = tile.bind("d", _reinterpret("int8x16", four))
                for j, w in enumerate(right):
                    at = i * tile.width + j * 4
                    tile.put(tile.sums, at, _call("int32x4", name, tile.sums[vector(at, 4)], w, a))

    return advance, _nothing


def _smlal(tile: _Tile, dot: Dot, stride: Any) -> Kind:
    """SMULL, SMLAL2 and SADALP: sixteen products into four partial sums, which are added at the end.

    Two products fit int16 as long as one operand is never -128; `smull` adds each by itself.
    """
    rows, width = len(tile.rows), tile.width
    parts = tile.code.local("parts", rows * width * 4, "int32")
    for n in range(rows * width):
        tile.code.store(parts, [vector(n * 4, 4)], _zeros(4))

    def advance(tile: _Tile, steps: int, at_left: Expr, at_right: Expr) -> None:
        for k in range(0, steps, 16):
            count = min(16, steps - k)
            left = [tile.bind("a", tile.of_left(i, at_left + k, count)) for i in range(rows)]
            for j in range(width):
                w = tile.bind("w", tile.of_right(at_right + k * width + j * count, count))
                for i in range(rows):
                    at = (i * width + j) * 4
                    for p in products(left[i], w, count):
                        added = _call("int32x4", "llvm.aarch64.neon.saddlp.v4i32.v8i16", tile.bind("p", p))
                        tile.put(parts, at, parts[vector(at, 4)] + added)

    def products(a: Expr, w: Expr, count: int) -> list[Expr]:
        """Eight of int16 each; two in one register where they fit it."""
        low = _smull(_part(a, 0), _part(w, 0))
        if count == 8:
            return [low]
        high = _smull(_part(a, 8), _part(w, 8))
        return [low + high] if dot.name == "smlal" else [low, high]

    def finish() -> None:
        def pairs(a: Expr, b: Expr) -> Expr:
            return _call("int32x4", "llvm.aarch64.neon.addp.v4i32", a, b)

        for i in range(rows):
            for j in range(0, width, 4):
                four = [parts[vector((i * width + j + n) * 4, 4)] for n in range(4)]
                total = pairs(pairs(four[0], four[1]), pairs(four[2], four[3]))
                at = i * width + j
                tile.put(tile.sums, at, tile.sums[vector(at, 4)] + total)

    return advance, finish


def _smmla(tile: _Tile, dot: Dot, stride: Any) -> Kind:
    """SMMLA: two rows by two columns by eight steps."""
    name = "llvm.aarch64.neon.smmla.v4i32.v16i8"
    rows, width = len(tile.rows), tile.width
    blocks = tile.code.local("blocks", (rows + 1) // 2 * width * 2, "int32")
    for n in range((rows + 1) // 2 * width // 2):
        tile.code.store(blocks, [vector(n * 4, 4)], _zeros(4))

    def advance(tile: _Tile, steps: int, at_left: Expr, at_right: Expr) -> None:
        for start in range(0, steps, 16):
            count = min(16, steps - start)
            eights = [pairs(tile, p, at_left + start, count) for p in range(0, rows, 2)]
            for k in range(count // 8):
                for q in range(width // 2):
                    w = tile.bind("w", tile.of_right(at_right + (start + k * 8) * width + q * 16, 16))
                    for p, left in enumerate(eights):
                        at = (p * (width // 2) + q) * 4
                        tile.put(blocks, at, _call("int32x4", name, blocks[vector(at, 4)], left[k], w))

    def pairs(tile: _Tile, row: int, at: Expr, count: int) -> list[Expr]:
        """Eight steps of two rows in each register; an odd row is paired with itself."""
        a, b = (tile.bind("a", tile.of_left(min(i, rows - 1), at, count)) for i in (row, row + 1))
        return [tile.bind("a", _shuffle([a, b], [*range(k, k + 8), *range(count + k, count + k + 8)])) for k in range(0, count, 8)]

    def finish() -> None:
        for i in range(rows):
            lanes = [0, 1, 4, 5] if i % 2 == 0 else [2, 3, 6, 7]
            for j in range(0, width, 4):
                at = (i // 2 * (width // 2) + j // 2) * 4
                four = _shuffle([blocks[vector(at, 4)], blocks[vector(at + 4, 4)]], lanes)
                at = i * width + j
                tile.put(tile.sums, at, tile.sums[vector(at, 4)] + four)

    return advance, finish


def _any(tile: _Tile, dot: Dot, stride: Any) -> Kind:
    """Integers of any width: one product in each lane."""
    lanes = dot.lanes

    def advance(tile: _Tile, steps: int, at_left: Expr, at_right: Expr) -> None:
        from tvm import tirx

        for k in range(steps):
            right = [
                tile.bind("w", tirx.Cast(f"int32x{lanes}", tile.of_right(at_right + k * tile.width + j, lanes)))
                for j in range(0, tile.width, lanes)
            ]
            for i in range(len(tile.rows)):
                a = splat(tirx.Cast("int32", tile.left[tile.rows[i] + (at_left + index(k) * stride)]), lanes)
                for j, w in enumerate(right):
                    at = i * tile.width + j * lanes
                    tile.put(tile.sums, at, tile.sums[vector(at, lanes)] + a * w)

    return advance, _nothing


def _smull(a: Expr, b: Expr) -> Expr:
    return _call("int16x8", "llvm.aarch64.neon.smull.v8i16", a, b)


def _part(x: Expr, start: int) -> Expr:
    """Eight of the lanes."""
    return x if int(x.ty.dtype.lanes) == 8 else _shuffle([x], list(range(start, start + 8)))


def _call(dtype: str, name: str, *operands: Expr) -> Expr:
    from tvm import tirx

    return tirx.call_llvm_pure_intrin(dtype, name, *operands)


def _reinterpret(dtype: str, value: Expr) -> Expr:
    from tvm import tirx

    return tirx.reinterpret(dtype, value)


def _shuffle(values: list[Expr], lanes: list[int]) -> Expr:
    from tvm import tirx

    return tirx.Shuffle(values, [tirx.const(n, "int32") for n in lanes])


def _zeros(lanes: int) -> Expr:
    from tvm import tirx

    return splat(tirx.const(0, "int32"), lanes)
