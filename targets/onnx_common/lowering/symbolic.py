"""Arithmetic on sizes: the tracer has already computed every result as an expression over the input sizes."""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from torch import fx

from edgecc.targets.onnx_common.builder import Builder
from edgecc.targets.onnx_common.lowering.handler import Handlers, Value, handlers

aten = torch.ops.aten


def _size(b: Builder, node: fx.Node, *_: Any, **__: Any) -> Value:
    return node.meta["val"]


def _nothing(b: Builder, node: fx.Node, **_: Any) -> None:
    """An assertion of the tracer; the inputs are checked where the program is entered."""


def _item(b: Builder, node: fx.Node, sequence: list[Value], index: int) -> Value:
    return sequence[index]


_OF_SIZES = (
    *(operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod, operator.neg, operator.truediv, operator.pow),
    *(torch.sym_max, torch.sym_min, torch.sym_float, torch.sym_int, torch.sym_sum, math.ceil, math.floor, math.trunc),
)

HANDLERS: Handlers = {
    **handlers(_size, aten.sym_size.int, aten.sym_numel.default, *_OF_SIZES),
    **handlers(_item, operator.getitem),
    **handlers(_nothing, aten._assert_tensor_metadata.default, aten._assert_async.msg, aten._assert_scalar.default),
    **handlers(_nothing, aten.sym_constrain_range.default, aten.sym_constrain_range_for_size.default),
}
