"""The table of everything that can be lowered, and the refusal of everything else. Nothing here imports onnx."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from edgecc.ir.dtypes import dtype_name
from edgecc.ir.quantized import DEQUANTIZE, FLOAT8
from edgecc.targeting.lowering import fake, flat, merge, refuse_size
from edgecc.targets.onnx_common.lowering import (
    arithmetic,
    attention,
    blocks,
    comparison,
    contraction,
    convolution,
    creation,
    dynamic,
    elementwise,
    indexing,
    layout,
    normalization,
    padding,
    pooling,
    quantization,
    recurrence,
    reduction,
    resize,
    slicing,
    sorting,
    symbolic,
    windows,
)
from edgecc.targets.onnx_common.lowering.handler import Handlers, first

aten = torch.ops.aten
DTYPES = frozenset(
    {torch.float32, torch.float64, torch.float16, torch.bfloat16}
    | {FLOAT8, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool}
)
OPSETS = range(17, 25)

_FAMILIES = (
    arithmetic,
    attention,
    blocks,
    comparison,
    contraction,
    convolution,
    creation,
    dynamic,
    elementwise,
    indexing,
    layout,
    normalization,
    padding,
    pooling,
    quantization,
    recurrence,
    reduction,
    resize,
    slicing,
    sorting,
    symbolic,
    windows,
)
#: Operators whose ONNX operator ONNX Runtime has for float32 alone.
_SINGLE = {
    *(aten.gelu, aten.erf, aten.erfc, aten.tan, aten.asin, aten.acos, aten.atan, aten.sinh, aten.cosh, aten.asinh, aten.acosh),
    *(aten.atanh, aten.hardsigmoid, aten.hardswish, aten.elu, aten.celu, aten.selu, aten.leaky_relu, aten.prelu, aten.softplus),
    *(aten.mish, aten.log_sigmoid, aten.group_norm, aten.native_group_norm, aten.instance_norm, aten.conv1d, aten.conv2d),
    *(aten.conv3d, aten.conv_transpose1d, aten.conv_transpose2d, aten.conv_transpose3d, aten.convolution, aten.rnn_tanh, aten.rnn_relu),
}


_CONVERSIONS = (aten.to.dtype, aten.to.dtype_layout, aten.to.other, aten._to_copy.default, aten.type_as.default)


TABLE: Handlers = merge(family.HANDLERS for family in _FAMILIES)


def refuse(node: fx.Node, opset: int) -> str | None:
    """Why a call cannot be lowered to ONNX of this opset, None where it can."""
    if node.target is operator.getitem and isinstance(node.args[0], fx.Node) and not isinstance(node.args[0].meta["val"], torch.Tensor):
        return None
    if node.target not in TABLE:
        return "no lowering to ONNX"
    makes = isinstance(first(node), torch.Tensor) and first(node).dtype is FLOAT8
    reads = any(isinstance(v, torch.Tensor) and v.dtype is FLOAT8 for v in map(fake, node.all_input_nodes))
    if (makes or reads) and node.target not in DEQUANTIZE and node.target not in _CONVERSIONS:
        return f"{dtype_name(FLOAT8)} outside of quantization"
    values = [v for n in node.all_input_nodes for v in flat(n.meta["val"])] + flat(node.meta["val"])
    reason = next((r for r in map(_refuse_value, values) if r), None)
    if reason:
        return reason
    if getattr(node.target, "overloadpacket", None) in _SINGLE and any(
        isinstance(v, torch.Tensor) and v.dtype is torch.float64 for v in values
    ):
        return "float64, which ONNX Runtime has no kernel for"
    check = TABLE[node.target].refuse
    return check(node, opset) if check else None


def _refuse_value(value: Any) -> str | None:
    if not isinstance(value, torch.Tensor):
        return refuse_size(value)
    if value.dtype not in DTYPES:
        return f"dtype {dtype_name(value.dtype)}"
    if any(isinstance(size, int) and size == 0 for size in value.shape):
        return "a tensor without elements"
    return next((r for r in map(refuse_size, value.shape) if r), None)
