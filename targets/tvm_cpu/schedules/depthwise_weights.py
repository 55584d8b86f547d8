"""Weights of depthwise convolutions as their loops read them."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgecc.targets.tvm_cpu.schedules.code import index
from edgecc.targets.tvm_cpu.schedules.depthwise_match import Depthwise


class Weights:
    """The weights as [block][tap][lane], where the last block starts early enough to be full."""

    def __init__(self, conv: Depthwise, lanes: int) -> None:
        from tvm import tirx

        channels = int(conv.channels.extent)
        self._conv = conv
        self._counts = [w.count for w in conv.windows]
        self._channel = np.minimum(np.arange(-(-channels // lanes)) * lanes, channels - lanes)[:, None] + np.arange(lanes)
        size = self._channel.size * int(np.prod(self._counts))
        self.buffer = tirx.decl_buffer([index(size)], conv.factors, "packed_weight")

    def pack(self, weight: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        blocks, lanes = self._channel.shape
        grids = np.meshgrid(np.arange(blocks), *[np.arange(n) for n in self._counts], np.arange(lanes), indexing="ij")
        where = self._conv.factor_at(grids[1:-1], self._channel[grids[0], grids[-1]])
        values = {variable: np.asarray(value) for variable, value in where.items()}
        at = [np.broadcast_to(_evaluate(i, values), grids[0].shape) for i in self._conv.weight.indices]
        return np.ascontiguousarray(weight[tuple(at)]).reshape(-1)


def _evaluate(value: Any, where: dict[Any, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """An index expression for arrays of positions."""
    from tvm import tirx

    operations: dict[Any, Any] = {
        tirx.Add: np.add,
        tirx.Sub: np.subtract,
        tirx.Mul: np.multiply,
        tirx.FloorDiv: np.floor_divide,
        tirx.FloorMod: np.mod,
    }
    if type(value) in operations:
        result: np.ndarray[Any, Any] = operations[type(value)](_evaluate(value.a, where), _evaluate(value.b, where))
        return result
    return where[value] if value in where else np.asarray(int(value))
