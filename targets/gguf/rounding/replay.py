"""Run a program over all samples together, node by node, with some weights replaced; what no later node reads is let go."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from edgecc.ir.lazy import read
from edgecc.ir.program import Program
from edgecc.targets.gguf.rounding.calls import Linear

aten = torch.ops.aten
#: Calls that show a weight in another layout. They are computed at each use: what they give may be as large as the weight.
_LAYOUTS = (
    aten.t.default, aten.transpose.int, aten.permute.default, aten.view.default, aten.reshape.default, aten.slice.Tensor,
    aten.contiguous.default, aten.clone.default, aten.alias.default, aten.detach.default, aten.to.dtype, aten._to_copy.default,
)  # fmt: skip
Values = dict[fx.Node, Any]


class Replay:
    """`runs`: the values of each sample that are alive, of the program as it is being rounded; `plain`: those of the program itself.

    `replaced`: weights [out, in] of layers that have not run yet. Weights are read when a node needs them and never kept.
    """

    def __init__(
        self,
        program: Program,
        samples: Sequence[Sequence[torch.Tensor]],
        layers: Mapping[fx.Node, Linear],
        rounded: Mapping[fx.Node, Callable[[], torch.Tensor]],
        *,
        compare: bool,
    ) -> None:
        self._program, self._layers, self._rounded = program, layers, rounded
        self.order = needed(program, layers)
        self.replaced: dict[fx.Node, torch.Tensor] = {}
        self.runs: list[Values] = [dict(zip(program.inputs(), sample, strict=True)) for sample in samples]
        self.plain: list[Values] = [dict(values) for values in self.runs] if compare else []
        self._varying = set(program.inputs())
        for node in self.order:
            if any(a in self._varying for a in node.all_input_nodes):
                self._varying.add(node)
        self._constants: Values = {}
        self._dying = last_reads(self.order)

    @torch.no_grad()
    def run(self, node: fx.Node) -> None:
        """Compute a node of `order` for every sample, and let go what it was the last to read."""
        if node in self._varying:
            self._run(node, self.runs, self._rounded, self.replaced.pop(node, None))
            self._run(node, self.plain, {}, None)
        for value in self._dying.get(node, ()):
            self._constants.pop(value, None)
            for values in (*self.runs, *self.plain):
                values.pop(value, None)

    def _run(
        self, node: fx.Node, runs: Sequence[Values], rounded: Mapping[fx.Node, Callable[[], torch.Tensor]], weight: torch.Tensor | None
    ) -> None:
        layer = self._layers[node] if weight is not None else None
        wanted = node.all_input_nodes if layer is None else [a for a in (layer.x, layer.bias) if a is not None]
        fixed = {a: self._constant(a, rounded) for a in wanted if a not in self._varying} if runs else {}
        for values in runs:
            known = {**fixed, **{a: values[a] for a in wanted if a in self._varying}}
            if layer is not None and weight is not None:
                values[node] = layer.run(known[layer.x], weight, None if layer.bias is None else known[layer.bias])
            else:
                values[node] = call(node, known)

    def _constant(self, node: fx.Node, rounded: Mapping[fx.Node, Callable[[], torch.Tensor]]) -> Any:
        """A value that no input decides."""
        if node in self._constants:
            return self._constants[node]
        if node.op == "get_attr":
            return rounded[node]() if node in rounded else read(self._program.weight(node))
        value = call(node, {a: self._constant(a, rounded) for a in node.all_input_nodes})
        if node.target not in _LAYOUTS:
            self._constants[node] = value
        return value


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


def last_reads(order: Sequence[fx.Node]) -> dict[fx.Node, list[fx.Node]]:
    """The values that each call is the last to read."""
    found: dict[fx.Node, list[fx.Node]] = {}
    for value, reader in {a: node for node in order for a in node.all_input_nodes}.items():
        found.setdefault(reader, []).append(value)
    return found
