"""Reading a graph: what depends on the tokens, the value of a node where others are given, and the parts that all of it is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from edgecc.ir import provenance
from edgecc.ir.ops import bound_arguments, operator_name
from edgecc.ir.program import Program
from edgecc.targets.gguf.recognition.description import Linear, Norm, Rope

aten = torch.ops.aten

#: Calls that change neither the numbers nor their order.
SAME = frozenset(
    {
        aten.to.dtype,
        aten.to.dtype_layout,
        aten._to_copy.default,
        aten.contiguous.default,
        aten.clone.default,
        aten.alias.default,
        aten.detach.default,
        aten.view.default,
        aten.reshape.default,
        aten.unsqueeze.default,
        aten.squeeze.dim,
        aten.squeeze.dims,
        aten.flatten.using_ints,
    }
)


class UnrecognizedError(Exception):
    """The graph computes something else here. `node` is where, `message` what was found and what was looked for."""

    def __init__(self, node: fx.Node, message: str) -> None:
        super().__init__(message)
        self.node = node
        self.message = message

    def __str__(self) -> str:
        return f"{call_text(self.node)}: {self.message}\n    {provenance.describe(self.node)}"


def call_text(node: fx.Node) -> str:
    """`%add_3 = aten.add.Tensor`."""
    return f"%{node.name} = {operator_name(node.target) if node.op == 'call_function' else node.op}"


@dataclass
class Reader:
    """A program, the nodes that depend on the rows of its tokens, and its examples: `batch` sequences of `length` tokens.

    `turns`: rotations of positions found so far, with the order of dimensions that goes with each.
    """

    program: Program
    live: frozenset[fx.Node]
    batch: int
    length: int
    turns: list[tuple[Rope | None, torch.Tensor]] = field(default_factory=list)
    order: dict[fx.Node, int] = field(init=False)

    def __post_init__(self) -> None:
        self.order = {node: i for i, node in enumerate(self.program.graph.nodes)}

    def value(self, node: Any, given: Mapping[fx.Node, torch.Tensor] | None = None) -> Any:
        """What a node computes from the example inputs, where the nodes of `given` have these values."""
        if not isinstance(node, fx.Node):
            return node
        return self.values([node], given or {})[0]

    def values(self, nodes: Sequence[fx.Node], given: Mapping[fx.Node, torch.Tensor]) -> list[Any]:
        """Several of them at once."""
        found: dict[fx.Node, Any] = dict(given)
        found |= {n: e for n, e in zip(self.program.inputs(), self.program.examples, strict=True) if n not in found}
        with torch.no_grad():
            for node in sorted(_needed(nodes, found), key=self.order.__getitem__):
                found[node] = self._compute(node, found)
        return [found[node] for node in nodes]

    def _compute(self, node: fx.Node, found: Mapping[fx.Node, Any]) -> Any:
        if node.op == "get_attr":
            return self.program.stored(str(node.target))
        assert node.op == "call_function" and callable(node.target), node.format_node()
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), found.__getitem__)
        return node.target(*args, **kwargs)

    def between(self, start: fx.Node, end: fx.Node) -> list[fx.Node]:
        """The live nodes that `end` needs of those after `start`, both included."""
        return sorted(_needed([end], {start: None}, self.live) | {start}, key=self.order.__getitem__)

    def sources(self, node: fx.Node, *targets: Any) -> list[fx.Node]:
        """The nearest live calls of `targets` that `node` is computed from, in graph order."""
        pending, seen, found = [node], {node}, []
        while pending:
            current = pending.pop()
            if current.target in targets and current is not node:
                found.append(current)
                continue
            for operand in current.all_input_nodes:
                if operand in self.live and operand not in seen:
                    seen.add(operand)
                    pending.append(operand)
        return sorted(set(found), key=self.order.__getitem__)


def _needed(nodes: Sequence[fx.Node], given: Mapping[fx.Node, Any], within: frozenset[fx.Node] | None = None) -> set[fx.Node]:
    pending, needed = [n for n in nodes if n not in given], set()
    while pending:
        node = pending.pop()
        if node in needed:
            continue
        needed.add(node)
        pending.extend(n for n in node.all_input_nodes if n not in given and (within is None or n in within))
    return needed


def strip(node: Any) -> Any:
    """The node whose numbers these are, in the same order, with the same last dimension."""
    while isinstance(node, fx.Node) and node.target in SAME:
        before = node.args[0]
        assert isinstance(before, fx.Node)
        if before.meta["val"].shape[-1:] != node.meta["val"].shape[-1:]:
            break
        node = before
    return node


def linear_at(node: Any) -> Linear | None:
    """A layer of a stored weight, None for anything else."""
    if not isinstance(node, fx.Node) or node.target is not aten.linear.default:
        return None
    bound = bound_arguments(node)
    weight, bias = bound["weight"], bound["bias"]
    stored = all(part is None or part.op == "get_attr" for part in (weight, bias))
    return Linear(node, weight, bias) if stored else None


def input_of(linear: Linear) -> fx.Node:
    """What a layer reads."""
    x = linear.call.args[0]
    assert isinstance(x, fx.Node)
    return x


def norm_at(node: fx.Node) -> Norm | None:
    """A norm over the last dimension with stored weights, None for any other call."""
    if node.target not in (aten.rms_norm.default, aten.layer_norm.default):
        return None
    bound = bound_arguments(node)
    weight, bias = bound["weight"], bound.get("bias")
    if len(bound["normalized_shape"]) != 1 or any(isinstance(p, fx.Node) and p.op != "get_attr" for p in (weight, bias)):
        return None
    rms = node.target is aten.rms_norm.default
    eps = bound["eps"] if bound["eps"] is not None else torch.finfo(torch.float32).eps
    return Norm(node, "rms" if rms else "layer", weight, bias, float(eps))
