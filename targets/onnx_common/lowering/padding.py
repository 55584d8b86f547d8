"""Padding of borders with a constant, a reflection, the nearest element or the other end."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from edgecc.targeting.lowering import arguments_of
from edgecc.targets.onnx_common.builder import Builder, Size
from edgecc.targets.onnx_common.lowering.handler import Handler, Handlers, Value, first, handlers

aten = torch.ops.aten
_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def _pad(b: Builder, node: fx.Node, x: Value, pad: list[Value], mode: str = "constant", value: float | None = None) -> Value:
    return padded(b, x, pad, mode, value or 0, b.sizes_of(first(node)))


def padded(b: Builder, x: Value, pad: list[Any], mode: str, value: float, sizes: list[Size]) -> Value:
    """x with `pad` = [before, after] of the last axis, of the one before it, ...; a negative number crops. ONNX Pad."""
    if all(isinstance(p, int) and p == 0 for p in pad):
        return x
    lead = [0] * (len(sizes) - len(pad) // 2)
    widths = b.shapes.vector([*lead, *reversed(pad[::2]), *lead, *reversed(pad[1::2])])
    through = torch.int32 if b.dtype(x) is torch.int16 else b.dtype(x)
    filling = b.constant(value, through) if value else None
    onnx_mode = None if mode == "constant" else _MODES[mode]
    return b.cast(b.op("Pad", b.cast(x, through), widths, filling, mode=onnx_mode, sizes=sizes), b.dtype(x))


def _of_mode(mode: str) -> Handler:
    def lower(b: Builder, node: fx.Node, x: Value, padding: list[Value]) -> Value:
        return padded(b, x, padding, mode, 0, b.sizes_of(first(node)))

    return Handler(lower)


def _refuse(node: fx.Node, opset: int) -> str | None:
    mode = arguments_of(node).get("mode", "constant")
    if mode == "circular" and opset < 19:
        return "circular padding needs opset 19"
    return None if mode in _MODES else f"padding mode {mode!r}"


HANDLERS: Handlers = {
    **handlers(_pad, aten.pad.default, aten.constant_pad_nd.default, refuse=_refuse),
    **dict.fromkeys((aten.reflection_pad1d.default, aten.reflection_pad2d.default, aten.reflection_pad3d.default), _of_mode("reflect")),
    **dict.fromkeys(
        (aten.replication_pad1d.default, aten.replication_pad2d.default, aten.replication_pad3d.default), _of_mode("replicate")
    ),
}
