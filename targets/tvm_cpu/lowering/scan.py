"""Running sums and products along an axis."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from edgecc.targets.tvm_cpu.lowering.arithmetic import result_dtype
from edgecc.targets.tvm_cpu.lowering.builder import Builder, Expr, axis_of, rank
from edgecc.targets.tvm_cpu.lowering.handler import Handler, Handlers

aten = torch.ops.aten


def _running(name: str) -> Handler:
    """In the dtype of the result: integers and bools accumulate as int64."""

    def lower(b: Builder, node: fx.Node, x: Expr, dim: int, dtype: Any = None) -> Expr:
        to = result_dtype(node)
        data = b.cast(x, to)
        return b.op(name, data, axis_of(dim, data), to, False) if rank(data) else data

    return Handler(lower)


HANDLERS: Handlers = {aten.cumsum.default: _running("cumsum"), aten.cumprod.default: _running("cumprod")}
