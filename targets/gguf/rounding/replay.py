"""Run a program over all samples from one node to another, with some weights replaced; what no later node reads is let go."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch.nn import functional as F

from edgecc.ir.lazy import read
from edgecc.ir.program import Program

aten = torch.ops.aten
#: Calls that show a weight in another layout. They are computed at each use: what they give may be as large as the weight.
_LAYOUTS = (
    aten.t.default, aten.transpose.int, aten.permute.default, aten.view.default, aten.reshape.default, aten.slice.Tensor,
    aten.contiguous.default, aten.clone.default, aten.alias.default, aten.detach.default, aten.to.dtype, aten._to_copy.default,
)  # fmt: skip
Values = dict[fx.Node, Any]
Weights = Mapping[fx.Node, Callable[[], torch.Tensor]]


class Replay:
    """`values`: for each sample what is alive. `rounded`: what weight nodes stand for instead of the program's tensors.

    Samples go one after another through the same nodes, so that beside `values` there are the activations of one sample, and the
    weights that these nodes read.
    """

    def __init__(self, program: Program, order: Sequence[fx.Node], samples: Iterable[Sequence[torch.Tensor]], rounded: Weights) -> None:
        self._program, self._rounded = program, rounded
        self.values: list[Values] = [dict(zip(program.inputs(), sample, strict=True)) for sample in samples]
        self._constants: Values = {}
        self._dying = last_reads(order)
        self._varying = moved(order, program.inputs())

    @torch.no_grad()
    def run(self, nodes: Sequence[fx.Node], replaced: Mapping[fx.Node, torch.Tensor]) -> None:
        """Compute these calls, the next of the order, for every sample. `replaced`: weights [out, in] of calls of aten.linear among them."""
        reads = {node: _reads(node, node in replaced) for node in nodes if node in self._varying}
        fixed = {a: self._constant(a) for a in dict.fromkeys(a for found in reads.values() for a in found) if a not in self._varying}
        for values in self.values:
            for node in nodes:
                if node in reads:
                    known = {a: fixed[a] if a in fixed else values[a] for a in reads[node]}
                    values[node] = _linear(*known.values(), weight=replaced[node]) if node in replaced else call(node, known)
                for value in self._dying.get(node, ()):
                    values.pop(value, None)
        for value in (v for node in nodes for v in self._dying.get(node, ())):
            self._constants.pop(value, None)

    def _constant(self, node: fx.Node) -> Any:
        """A value that no input decides."""
        if node in self._constants:
            return self._constants[node]
        if node.op == "get_attr":
            return self._rounded[node]() if node in self._rounded else read(self._program.weight(node))
        value = call(node, {a: self._constant(a) for a in node.all_input_nodes})
        if node.target not in _LAYOUTS:
            self._constants[node] = value
        return value


def _reads(node: fx.Node, replaced: bool) -> list[fx.Node]:
    """What a call reads; of a call of aten.linear whose weight is replaced, all but that."""
    return [a for a in node.all_input_nodes if not (replaced and a is node.args[1])]


def _linear(x: torch.Tensor, bias: torch.Tensor | None = None, *, weight: torch.Tensor) -> torch.Tensor:
    found = F.linear(x, weight.to(x.dtype))
    return found if bias is None else found + bias


def call(node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
    """What a call computes, given the values of the nodes that it reads."""
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
    assert callable(node.target), node.format_node()
    return node.target(*args, **kwargs)


def needed(program: Program, nodes: Iterable[fx.Node]) -> list[fx.Node]:
    """These calls and those that they depend on, in the order of the graph."""
    wanted = set(nodes)
    for node in reversed(program.graph.nodes):
        if node in wanted:
            wanted.update(node.all_input_nodes)
    return [n for n in program.graph.nodes if n in wanted and n.op == "call_function"]


def moved(order: Iterable[fx.Node], by: Iterable[fx.Node]) -> set[fx.Node]:
    """These nodes, and the calls that depend on any of them."""
    found = set(by)
    for node in order:
        if not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    return found


def last_reads(order: Sequence[fx.Node]) -> dict[fx.Node, list[fx.Node]]:
    """The values that each call is the last to read."""
    found: dict[fx.Node, list[fx.Node]] = {}
    for value, reader in {a: node for node in order for a in node.all_input_nodes}.items():
        found.setdefault(reader, []).append(value)
    return found
