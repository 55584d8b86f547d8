"""Cost of a program: operators, parameters, bytes of weights and multiply-accumulates."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import fx

from edgecc.ir.fake import evaluate
from edgecc.ir.ops import operator_name
from edgecc.ir.program import Program

aten = torch.ops.aten
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Cost:
    """`parameters` counts elements of all weights and buffers in use, a tied one once; `bytes` their size.

    `macs` are multiply-accumulates of contractions (linear, conv, matmul, attention, recurrences) at the sizes of
    the example inputs. `ops` counts calls by operator.
    """

    nodes: int
    parameters: int
    bytes: int
    macs: int
    ops: Mapping[str, int]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"ops": dict(self.ops)}


def cost(program: Program) -> Cost:
    """Count a program."""
    calls = program.calls()
    weights = program.weights().values()
    sizes = program.example_sizes()
    return Cost(
        nodes=len(calls),
        parameters=sum(w.numel() for w in weights),
        bytes=sum(w.numel() * w.element_size() for w in weights),
        macs=sum(macs(node, sizes) for node in calls),
        ops=dict(sorted(Counter(operator_name(n.target) for n in calls).items())),
    )


def macs(node: fx.Node, sizes: Mapping[str, int]) -> int:
    """Multiply-accumulates of one call; 0 for what is no contraction. `sizes` binds the symbols."""
    count = _MACS.get(node.target)
    return count(node, lambda value: _shape(value, sizes)) if count else 0


def _shape(value: Any, sizes: Mapping[str, int]) -> Shape:
    tensor = value.meta["val"] if isinstance(value, fx.Node) else value
    return tuple(evaluate(s, sizes) for s in tensor.shape)


ShapeOf = Callable[[Any], Shape]


def _linear(node: fx.Node, shape: ShapeOf) -> int:
    return math.prod(shape(node)) * shape(node.args[0])[-1]


def _matmul(node: fx.Node, shape: ShapeOf) -> int:
    left = node.args[1] if node.target in (aten.addmm.default, aten.baddbmm.default) else node.args[0]
    return math.prod(shape(node)) * shape(left)[-1]


def _conv(node: fx.Node, shape: ShapeOf) -> int:
    return math.prod(shape(node)) * math.prod(shape(node.args[1])[1:])


def _conv_transpose(node: fx.Node, shape: ShapeOf) -> int:
    return math.prod(shape(node.args[0])) * math.prod(shape(node.args[1])[1:])


def _attention(node: fx.Node, shape: ShapeOf) -> int:
    *batch, queries, width = shape(node.args[0])
    keys, values = shape(node.args[1])[-2], shape(node.args[2])[-1]
    return math.prod(batch) * queries * keys * (width + values)


def _recurrence(node: fx.Node, shape: ShapeOf) -> int:
    steps = math.prod(shape(node.args[0])[:-1])
    weights = node.args[2]
    assert isinstance(weights, (list, tuple))
    return steps * sum(math.prod(shape(w)) for w in weights if len(shape(w)) == 2)


_MACS: dict[Any, Callable[[fx.Node, ShapeOf], int]] = {
    aten.linear.default: _linear,
    aten.scaled_dot_product_attention.default: _attention,
    aten.gru.input: _recurrence,
    aten.lstm.input: _recurrence,
    **dict.fromkeys((aten.matmul.default, aten.mm.default, aten.bmm.default, aten.addmm.default, aten.baddbmm.default), _matmul),
    **dict.fromkeys((aten.conv1d.default, aten.conv2d.default, aten.conv3d.default, aten.conv1d.padding, aten.conv2d.padding), _conv),
    **dict.fromkeys((aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input), _conv_transpose),
}
