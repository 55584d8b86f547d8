"""Operators of half precision that are several in ONNX, whose intermediate numbers PyTorch has in float32: they are computed so."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from edgecc.targets.onnx_common.builder import Builder
from edgecc.targets.onnx_common.lowering.handler import HALF, Value

aten = torch.ops.aten
#: Squares, exponentials or sums of them stand in between, which may be beyond float16. at::opmath_type, ATen/OpMathType.h
_WIDE = {
    *(aten.rms_norm, aten.group_norm, aten.native_group_norm, aten.var, aten.var_mean, aten.std, aten.std_mean),
    *(aten.linalg_vector_norm, aten.norm, aten.logsumexp, aten.softplus, aten.mish, aten.log_sigmoid, aten.instance_norm),
}


def is_wide(node: fx.Node) -> bool:
    return getattr(node.target, "overloadpacket", None) in _WIDE


def widened(b: Builder, value: Any) -> Any:
    """Half operands in float32, those in a list too."""
    if isinstance(value, list):
        return [widened(b, v) for v in value]
    return b.cast(value, torch.float32) if _is_half(b, value) else value


def narrowed(b: Builder, node: fx.Node, value: Value) -> Value:
    """The results in the dtypes of the call."""
    wanted = node.meta["val"]
    if isinstance(value, list):
        return [v if v is None else b.cast(v, w.dtype) for v, w in zip(value, wanted, strict=False)]
    return b.cast(value, wanted.dtype)


def _is_half(b: Builder, value: Any) -> bool:
    return hasattr(value, "producer") and b.dtype(value) in HALF
