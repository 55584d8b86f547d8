"""Images as columns of windows, and back: unfold and fold."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from edgecc.ir.ops import each
from edgecc.targeting.lowering import fake
from edgecc.targets.tvm_cpu.lowering.builder import Builder, Expr, shape
from edgecc.targets.tvm_cpu.lowering.handler import Handlers, handlers

aten = torch.ops.aten


def _columns(b: Builder, node: fx.Node, x: Expr, kernel_size: Any, dilation: Any, padding: Any, stride: Any) -> Expr:
    """x [n, c, h, w] -> [n, c * kh * kw, windows], zero outside of the image."""
    from tvm import tirx

    (kh, kw), spread, pad, step = each(kernel_size, 2), each(dilation, 2), each(padding, 2), each(stride, 2)

    def element(t: Any, n: Any, row: Any, window: Any) -> Any:
        across = _positions(t.shape[3], kw, spread[1], pad[1], step[1])
        y = tirx.floordiv(window, across) * step[0] + tirx.floormod(tirx.floordiv(row, kw), kh) * spread[0] - pad[0]
        x = tirx.floormod(window, across) * step[1] + tirx.floormod(row, kw) * spread[1] - pad[1]
        inside = tirx.all(y >= 0, y < t.shape[2], x >= 0, x < t.shape[3])
        return tirx.if_then_else(inside, t(n, tirx.floordiv(row, kh * kw), y, x), tirx.const(0, t.dtype))

    return b.compute("columns", b.shape(node), element, x)


def _positions(size: Any, kernel: int, dilation: int, pad: int, stride: int) -> Any:
    """How many windows lie along an axis."""
    return (size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1


def _image(b: Builder, node: fx.Node, x: Expr, output_size: Any, kernel_size: Any, dilation: Any, padding: Any, stride: Any) -> Expr:
    """x [n, c * kh * kw, windows] -> [n, c, h, w], the sum of all windows that cover a pixel."""
    from tvm import te, tirx

    (kh, kw), spread, pad, step = each(kernel_size, 2), each(dilation, 2), each(padding, 2), each(stride, 2)
    batch, channels = shape(x)[0], b.shape(node)[1]
    height, width = each(output_size, 2)
    down, across = _positions(height, kh, spread[0], pad[0], step[0]), _positions(width, kw, spread[1], pad[1], step[1])

    def fold(t: Any) -> Any:
        i, j = te.reduce_axis((0, kh), "i"), te.reduce_axis((0, kw), "j")

        def element(n: Any, c: Any, y: Any, x: Any) -> Any:
            top, left = y + pad[0] - i * spread[0], x + pad[1] - j * spread[1]
            row, column = tirx.floordiv(top, step[0]), tirx.floordiv(left, step[1])
            hit = tirx.all(
                top >= 0, left >= 0, row < down, column < across, tirx.floormod(top, step[0]) == 0, tirx.floormod(left, step[1]) == 0
            )
            value = tirx.if_then_else(hit, t(n, (c * kh + i) * kw + j, row * across + column), tirx.const(0, t.dtype))
            return te.sum(value, axis=[i, j])

        return te.compute((batch, channels, height, width), element, name="fold")

    return b.te("fold", fold, x)


def _refuse_fold(node: fx.Node) -> str | None:
    if any(isinstance(s, fx.Node) for s in each(node.args[1], 2)):
        return "fold to a dynamic size"
    return _refuse(node)


def _refuse(node: fx.Node) -> str | None:
    rank = len(fake(node.args[0]).shape)
    return None if rank == (4 if node.target is aten.im2col.default else 3) else "an image without a batch"


HANDLERS: Handlers = {
    **handlers(_columns, aten.im2col.default, refuse=_refuse),
    **handlers(_image, aten.col2im.default, refuse=_refuse_fold),
}
