"""Resizing: every axis has a few taps, source positions with weights, and the result is the sum over their product.

Source positions follow PyTorch: `(i + 0.5) * scale - 0.5` (half pixel), or `i * (size - 1) / (result - 1)` with
aligned corners; `scale` is 1 / scale_factor where the caller gave one, else size / result.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from edgecc.targeting.lowering import fake
from edgecc.targets.tvm_cpu.lowering.builder import Builder, Expr, int64, rank, shape
from edgecc.targets.tvm_cpu.lowering.handler import Handlers, Value, handlers

aten = torch.ops.aten
Taps = list[tuple[Any, Any]]  # (position int64, weight f32)
_CUBIC = -0.75


def _nearest(axes: int, *, exact: bool = False) -> Callable[..., Expr]:
    def lower(b: Builder, node: fx.Node, x: Expr, **options: Any) -> Expr:
        factors = _factors(options, axes)
        if axes == 2 and not exact and _whole_factors(b, node, x, factors):
            return _relax_resize(
                b, node, x, method="nearest_neighbor", coordinate_transformation_mode="asymmetric", rounding_method="floor"
            )
        return _resize(b, "resize_nearest", node, x, factors, lambda i, size, result, f: _nearest_taps(i, size, result, f, exact))

    return lower


def _linear(axes: int) -> Callable[..., Expr]:
    def lower(b: Builder, node: fx.Node, x: Expr, align_corners: bool, **options: Any) -> Expr:
        factors = _factors(options, axes)
        if axes == 2 and not align_corners and _whole_factors(b, node, x, factors):
            return _relax_resize(b, node, x, method="linear", coordinate_transformation_mode="half_pixel", rounding_method="")
        return _resize(b, "resize_linear", node, x, factors, lambda i, size, result, f: _linear_taps(i, size, result, f, align_corners))

    return lower


def _cubic(b: Builder, node: fx.Node, x: Expr, align_corners: bool, **options: Any) -> Expr:
    factors = _factors(options, 2)
    return _resize(b, "resize_cubic", node, x, factors, lambda i, size, result, f: _cubic_taps(i, size, result, f, align_corners))


def _factors(options: dict[str, Any], axes: int) -> list[Value]:
    """The scale factor that the caller gave for each axis, None where it gave a size."""
    if "scale_factors" in options:
        return options["scale_factors"] or [None] * axes
    names = ["scales"] if axes == 1 else ["scales_d", "scales_h", "scales_w"][-axes:]
    return [options.get(name) for name in names]


def _whole_factors(b: Builder, node: fx.Node, x: Expr, factors: Sequence[Value]) -> bool:
    """Whether every axis grows by a whole factor, so that Relax's operator reads the same positions."""
    sizes = zip(shape(x)[2:], b.shape(node)[2:], factors, strict=True)
    return all(isinstance(s, int) and isinstance(r, int) and r % s == 0 and f in (None, r / s) for s, r, f in sizes)


def _relax_resize(b: Builder, node: fx.Node, x: Expr, **how: str) -> Expr:
    return b.op("image.resize2d", x, tuple(b.shape(node)[2:]), layout="NCHW", **how)


def _resize(b: Builder, name: str, node: fx.Node, x: Expr, factors: Sequence[Value], taps_of: Callable[..., Taps]) -> Expr:
    """Positions and weights are tables for each axis, which fold to constants where the sizes are static."""
    sizes = b.shape(node)
    lead = rank(x) - len(factors)
    axes = [_tables(b, s, r, f, taps_of) for s, r, f in zip(shape(x)[lead:], sizes[lead:], factors, strict=True)]
    counts = [len(tables) for tables in axes]
    flat = [table for tables in axes for tap in tables for table in tap]

    def element(t: Any, *rest: Any) -> Any:
        tables, index = iter(rest[: len(flat)]), rest[len(flat) :]
        found = [[(next(tables)(i), next(tables)(i)) for _ in range(n)] for i, n in zip(index[lead:], counts, strict=True)]
        total = None
        for taps in itertools.product(*found):
            value = t(*index[:lead], *(position for position, _ in taps))
            for (_, weight), n in zip(taps, counts, strict=True):
                value = value if n == 1 else value * weight.astype(t.dtype)
            total = value if total is None else total + value
        return total

    return b.compute(name, sizes, element, x, *flat)


def _tables(b: Builder, size: Any, result: Any, factor: Value, taps_of: Callable[..., Taps]) -> list[tuple[Expr, Expr]]:
    """For each tap a table of positions [result] int64 and one of weights [result] f32."""
    count = len(taps_of(int64(0), int64(1), int64(1), factor))

    def table(k: int, part: int) -> Expr:
        return b.compute("taps", [result], lambda s, r, i: taps_of(i, int64(s), int64(r), factor)[k][part], size, result)

    return [(table(k, 0), table(k, 1)) for k in range(count)]


def _scale(size: Any, result: Any, factor: float | None) -> Any:
    """Source elements for one element of the result, in float32 as PyTorch computes it."""
    return _f32(1.0 / factor) if factor else _f32(size) / _f32(result)


def _f32(value: Any) -> Any:
    from tvm import tirx

    return tirx.const(value, "float32") if isinstance(value, (int, float)) else value.astype("float32")


def _clamped(position: Any, size: Any) -> Any:
    from tvm import tirx

    return tirx.max(tirx.min(position, size - 1), 0)


def _nearest_taps(i: Any, size: Any, result: Any, factor: float | None, exact: bool) -> Taps:
    from tvm import tirx

    position = _f32(i) + _f32(0.5) if exact else _f32(i)
    return [(_clamped(tirx.floor(position * _scale(size, result, factor)).astype("int64"), size), _f32(1.0))]


def _source(i: Any, size: Any, result: Any, factor: float | None, align_corners: bool) -> Any:
    from tvm import tirx

    if align_corners:
        return _f32(i) * tirx.if_then_else(result > 1, _f32(size - 1) / _f32(tirx.max(result - 1, 1)), _f32(0.0))
    return (_f32(i) + _f32(0.5)) * _scale(size, result, factor) - _f32(0.5)


def _linear_taps(i: Any, size: Any, result: Any, factor: float | None, align_corners: bool) -> Taps:
    from tvm import tirx

    source = tirx.max(_source(i, size, result, factor, align_corners), _f32(0.0))
    first = tirx.min(tirx.floor(source).astype("int64"), size - 1)
    weight = source - first.astype("float32")
    return [(first, _f32(1.0) - weight), (_clamped(first + 1, size), weight)]


def _cubic_taps(i: Any, size: Any, result: Any, factor: float | None, align_corners: bool) -> Taps:
    """Four taps of the cubic convolution kernel with a = -0.75. Keys 1981, equation 4."""
    from tvm import tirx

    source = _source(i, size, result, factor, align_corners)
    down = tirx.floor(source)
    first, t = down.astype("int64"), source - down
    a = _f32(_CUBIC)

    def near(d: Any) -> Any:
        return ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0

    def far(d: Any) -> Any:
        return ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a

    weights = [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)]
    return [(_clamped(first + k - 1, size), weight) for k, weight in enumerate(weights)]


def _refuse(node: fx.Node) -> str | None:
    return None if fake(node.args[0]).is_floating_point() else "resizing of integers"


HANDLERS: Handlers = {
    **handlers(_nearest(1), aten.upsample_nearest1d.default, aten.upsample_nearest1d.vec, refuse=_refuse),
    **handlers(_nearest(2), aten.upsample_nearest2d.default, aten.upsample_nearest2d.vec, refuse=_refuse),
    **handlers(_nearest(3), aten.upsample_nearest3d.default, aten.upsample_nearest3d.vec, refuse=_refuse),
    **handlers(_nearest(2, exact=True), aten._upsample_nearest_exact2d.default, aten._upsample_nearest_exact2d.vec, refuse=_refuse),
    **handlers(_linear(1), aten.upsample_linear1d.default, aten.upsample_linear1d.vec, refuse=_refuse),
    **handlers(_linear(2), aten.upsample_bilinear2d.default, aten.upsample_bilinear2d.vec, refuse=_refuse),
    **handlers(_linear(3), aten.upsample_trilinear3d.default, aten.upsample_trilinear3d.vec, refuse=_refuse),
    **handlers(_cubic, aten.upsample_bicubic2d.default, aten.upsample_bicubic2d.vec, refuse=_refuse),
}
