"""The table of everything that can be lowered, and the refusal of everything else. Nothing here imports TVM."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from edgecc.ir.dtypes import dtype_name
from edgecc.targeting.lowering import flat, merge, refuse_size
from edgecc.targets.tvm_cpu.lowering import (
    arithmetic,
    attention,
    comparison,
    contraction,
    convolution,
    creation,
    elementwise,
    indexing,
    integer,
    layout,
    normalization,
    padding,
    pooling,
    quantization,
    recurrence,
    reduction,
    resize,
    scan,
    slicing,
    sorting,
    symbolic,
    windows,
)
from edgecc.targets.tvm_cpu.lowering.handler import Handler, Handlers

#: What is computed in float16; nothing else is.
HALF = frozenset(
    {torch.ops.aten.linear.default, torch.ops.aten.matmul.default, torch.ops.aten.mm.default, torch.ops.aten.bmm.default}
    | {torch.ops.aten.conv1d.default, torch.ops.aten.conv2d.default, torch.ops.aten.conv1d.padding, torch.ops.aten.conv2d.padding}
    | {torch.ops.aten.to.dtype}
)
DTYPES = frozenset(
    {torch.float16, torch.float32, torch.float64, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool}
)

_FAMILIES = (
    arithmetic,
    attention,
    comparison,
    contraction,
    convolution,
    creation,
    elementwise,
    indexing,
    integer,
    layout,
    normalization,
    padding,
    pooling,
    quantization,
    recurrence,
    reduction,
    resize,
    scan,
    slicing,
    sorting,
    symbolic,
    windows,
)


TABLE: Handlers = merge(family.HANDLERS for family in _FAMILIES)


def handler(target: Callable[..., Any]) -> Handler:
    return TABLE[target]


def refuse(node: fx.Node) -> str | None:
    """Why a call cannot be lowered to TVM, None where it can."""
    if node.target is operator.getitem and isinstance(node.args[0], fx.Node) and not isinstance(node.args[0].meta["val"], torch.Tensor):
        return None
    if node.target not in TABLE:
        return "no lowering to TVM"
    values = [n.meta["val"] for n in node.all_input_nodes] + [node.meta["val"]]
    reason = next((r for value in values for r in map(_refuse_value, flat(value)) if r), None)
    if reason:
        return reason
    if node.target not in HALF and any(isinstance(v, torch.Tensor) and v.dtype == torch.float16 for value in values for v in flat(value)):
        return "float16 outside of products"
    check = TABLE[node.target].refuse
    return check(node) if check else None


def _refuse_value(value: Any) -> str | None:
    if not isinstance(value, torch.Tensor):
        return refuse_size(value)
    if value.dtype not in DTYPES:
        return f"dtype {dtype_name(value.dtype)}"
    if any(isinstance(size, int) and size == 0 for size in value.shape):
        return "a tensor without elements"
    return next((r for r in map(refuse_size, value.shape) if r), None)
