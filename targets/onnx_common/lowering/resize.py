"""Resizing by ONNX Resize, with the coordinates of PyTorch: half pixel, or aligned corners; nearest rounds down.

The scale factor that the caller gave is kept where it leads to the size of the result, as PyTorch computes
coordinates with it; elsewhere the size is given and the factor follows from it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import fx

from edgecc.ir.dtypes import dtype_name
from edgecc.targeting.lowering import fake
from edgecc.targets.onnx_common.builder import Builder, Size
from edgecc.targets.onnx_common.lowering.handler import SINGLE, Handlers, Value, first, handlers

aten = torch.ops.aten


def _nearest(axes: int, *, exact: bool = False) -> Callable[..., Value]:
    how = ("half_pixel", "round_prefer_ceil") if exact else ("asymmetric", "floor")
    options = {"mode": "nearest", "coordinate_transformation_mode": how[0], "nearest_mode": how[1]}

    def lower(b: Builder, node: fx.Node, x: Value, **given: Any) -> Value:
        return _resize(b, node, x, _factors(given, axes), options)

    return lower


def _linear(axes: int) -> Callable[..., Value]:
    def lower(b: Builder, node: fx.Node, x: Value, align_corners: bool, **given: Any) -> Value:
        options = {"mode": "linear", "coordinate_transformation_mode": "align_corners" if align_corners else "half_pixel"}
        return _resize(b, node, x, _factors(given, axes), options)

    return lower


def _cubic(b: Builder, node: fx.Node, x: Value, align_corners: bool, **given: Any) -> Value:
    """The cubic convolution kernel with a = -0.75. Keys 1981, equation 4."""
    coordinates = "align_corners" if align_corners else "half_pixel"
    options = {"mode": "cubic", "coordinate_transformation_mode": coordinates, "cubic_coeff_a": -0.75}
    return _resize(b, node, x, _factors(given, 2), options)


def _factors(given: dict[str, Any], axes: int) -> list[Value]:
    """The scale factor that the caller gave for each axis, None where it gave a size."""
    if "scale_factors" in given:
        return given["scale_factors"] or [None] * axes
    names = ["scales"] if axes == 1 else ["scales_d", "scales_h", "scales_w"][-axes:]
    return [given.get(name) for name in names]


def _resize(b: Builder, node: fx.Node, x: Value, factors: list[Value], options: dict[str, Any]) -> Value:
    sizes = b.sizes_of(first(node))
    space = zip(b.sizes(x)[2:], sizes[2:], factors, strict=True)
    scales = [_scale(size, result, factor) for size, result, factor in space]
    if all(s is not None for s in scales):
        return b.op("Resize", x, None, b.constant([1.0, 1.0, *scales], torch.float32, "scales"), sizes=sizes, **options)
    return b.op("Resize", x, None, None, b.shapes.vector(sizes), sizes=sizes, **options)


def _scale(size: Size, result: Size, factor: float | None) -> float | None:
    """A factor with which Resize gives this result, `floor(size * factor)`; None where a size must be given."""
    if not isinstance(size, int) or not isinstance(result, int):
        return factor
    if factor is None and result % size:
        return None
    chosen = float(np.float32(factor or result / size))
    return chosen if int(np.float32(size) * np.float32(chosen)) == result else None


def _refuse(node: fx.Node, opset: int) -> str | None:
    dtype = fake(node.args[0]).dtype
    return None if dtype in SINGLE else f"resizing of {dtype_name(dtype)}"


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
