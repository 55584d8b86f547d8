"""Images as columns of windows, and back: unfold and fold."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from edgecc.ir.ops import each
from edgecc.targeting.lowering import fake
from edgecc.targets.onnx_common.builder import Builder
from edgecc.targets.onnx_common.lowering.handler import SINGLE, Handlers, Value, first, handlers
from edgecc.targets.onnx_common.lowering.padding import padded

aten = torch.ops.aten


def _columns(b: Builder, node: fx.Node, x: Value, kernel_size: Any, dilation: Any, padding: Any, stride: Any) -> Value:
    """x [n, c, h, w] -> [n, c * kh * kw, windows], zero outside of the image: a choice of rows, then of columns."""
    kernel, spread, pad, step = each(kernel_size, 2), each(dilation, 2), each(padding, 2), each(stride, 2)
    batch, channels, height, width = b.sizes(x)
    wide = [batch, channels, height + 2 * pad[0], width + 2 * pad[1]]
    image = padded(b, x, [pad[1], pad[1], pad[0], pad[0]], "constant", 0, wide)
    rows, columns = (_places(wide[2 + k], kernel[k], spread[k], step[k]) for k in range(2))
    found = b.gather(image, b.constant(rows, torch.int64, "rows"), 2)  # [n, c, kh, down, w]
    found = b.gather(found, b.constant(columns, torch.int64, "columns"), 4)  # [n, c, kh, down, kw, across]
    return b.reshape(b.transpose(found, [0, 1, 2, 4, 3, 5]), b.sizes_of(first(node)))


def _places(size: int, kernel: int, dilation: int, stride: int) -> torch.Tensor:
    """Positions along an axis [kernel, windows]."""
    windows = (size - dilation * (kernel - 1) - 1) // stride + 1
    return torch.arange(kernel)[:, None] * dilation + torch.arange(windows) * stride


def _image(b: Builder, node: fx.Node, x: Value, output_size: Any, kernel_size: Any, dilation: Any, padding: Any, stride: Any) -> Value:
    """x [n, c * kh * kw, windows] -> [n, c, h, w], the sum of all windows that cover a pixel. ONNX Col2Im."""
    options: dict[str, Any] = {"dilations": each(dilation, 2), "pads": each(padding, 2) * 2, "strides": each(stride, 2)}
    shape, block = b.shapes.vector(each(output_size, 2)), b.shapes.vector(each(kernel_size, 2))
    return b.op("Col2Im", x, shape, block, sizes=b.sizes_of(first(node)), **options)


def _refuse_image(node: fx.Node, opset: int) -> str | None:
    x = fake(node.args[0])
    if opset < 18:
        return "fold needs opset 18"
    if any(isinstance(s, fx.Node) for s in each(node.args[1], 2)):
        return "fold to a dynamic size"
    return None if x.dim() == 3 and x.dtype in SINGLE else "fold of anything but a batch of float32 or less"


def _refuse_columns(node: fx.Node, opset: int) -> str | None:
    shape = fake(node.args[0]).shape
    if len(shape) != 4:
        return "an image without a batch"
    return "unfold of an image of dynamic size" if any(isinstance(s, torch.SymInt) for s in shape[2:]) else None


HANDLERS: Handlers = {
    **handlers(_columns, aten.im2col.default, refuse=_refuse_columns),
    **handlers(_image, aten.col2im.default, refuse=_refuse_image),
}
