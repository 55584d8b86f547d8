"""Padding of borders with a constant, a reflection, the nearest element or the other end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from edgecc.targeting.lowering import arguments_of
from edgecc.targets.tvm_cpu.lowering.builder import Builder, Expr
from edgecc.targets.tvm_cpu.lowering.handler import Handler, Handlers, Value, handlers

aten = torch.ops.aten
_MODES = ("constant", "reflect", "replicate", "circular")


def _pad(b: Builder, node: fx.Node, x: Expr, pad: list[Value], mode: str = "constant", value: float | None = None) -> Expr:
    return padded(b, x, pad, mode, value or 0, b.shape(node))


def padded(b: Builder, x: Expr, pad: list[Value], mode: str, value: float, sizes: list[Any]) -> Expr:
    """x with `pad` = [before, after] of the last axis, of the one before it, ...; a negative number crops."""
    if all(isinstance(p, int) and p == 0 for p in pad):
        return x
    if mode == "constant" and all(isinstance(p, int) and p >= 0 for p in pad):
        widths = [w for k in reversed(range(len(pad) // 2)) for w in pad[2 * k : 2 * k + 2]]
        return b.op("nn.pad", x, [0] * (2 * len(sizes) - len(widths)) + widths, "constant", value)
    before: list[Value] = [0] * (len(sizes) - len(pad) // 2) + list(reversed(pad[::2]))

    def element(t: Any, *rest: Any) -> Any:
        offsets, index = rest[: len(before)], rest[len(before) :]
        positions = [i - o for i, o in zip(index, offsets, strict=True)]
        return _constant(t, positions, value) if mode == "constant" else t(*map(_FOLDS[mode], positions, t.shape))

    return b.compute(f"pad_{mode}", sizes, element, x, *before)


def _constant(t: Any, positions: list[Any], value: float) -> Any:
    from tvm import tirx

    inside = tirx.all(*(c for p, s in zip(positions, t.shape, strict=True) for c in (p >= 0, p < s)))
    return tirx.if_then_else(inside, t(*positions), tirx.const(value, t.dtype))


def _reflect(position: Any, size: Any) -> Any:
    from tvm import tirx

    left = tirx.Select(position < 0, -position, position)
    return tirx.Select(left >= size, 2 * size - 2 - left, left)


def _replicate(position: Any, size: Any) -> Any:
    from tvm import tirx

    return tirx.max(tirx.min(position, size - 1), 0)


def _circular(position: Any, size: Any) -> Any:
    from tvm import tirx

    return tirx.floormod(position, size)


_FOLDS: dict[str, Callable[[Any, Any], Any]] = {"reflect": _reflect, "replicate": _replicate, "circular": _circular}


def _of_mode(mode: str) -> Handler:
    def lower(b: Builder, node: fx.Node, x: Expr, padding: list[Value]) -> Expr:
        return padded(b, x, padding, mode, 0, b.shape(node))

    return Handler(lower)


def _refuse(node: fx.Node) -> str | None:
    mode = arguments_of(node).get("mode", "constant")
    return None if mode in _MODES else f"padding mode {mode!r}"


HANDLERS: Handlers = {
    **handlers(_pad, aten.pad.default, aten.constant_pad_nd.default, refuse=_refuse),
    **dict.fromkeys((aten.reflection_pad1d.default, aten.reflection_pad2d.default, aten.reflection_pad3d.default), _of_mode("reflect")),
    **dict.fromkeys(
        (aten.replication_pad1d.default, aten.replication_pad2d.default, aten.replication_pad3d.default), _of_mode("replicate")
    ),
}
