"""Reading a graph: what depends on the tokens, and the value of a node where others are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from edgecc.ir import provenance
from edgecc.ir.fake import evaluate, size_symbols
from edgecc.ir.ops import operator_name
from edgecc.ir.program import Program
from edgecc.targets.gguf.recognition.description import Mask, Rope

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

#: What a program may round to without being another model.
_NARROW = frozenset({torch.float16, torch.bfloat16})

#: What depends on the shape of an operand alone.
_SIZES = frozenset(
    {aten.sym_size.int, aten.zeros_like.default, aten.ones_like.default, aten.full_like.default, aten.empty_like.default}
    | {aten.new_zeros.default, aten.new_ones.default, aten.new_full.default, aten.new_empty.default}
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
    """A program, the nodes that depend on the rows of its tokens, and `batch` sequences of `length` tokens for it.

    `examples`: what its inputs are given, `ids` the one of the tokens, `sizes` those of its symbols. Everything is computed in float32
    or wider, whatever the program casts to. `turns`: rotations of positions found so far, with the order of dimensions that goes with
    each; `masks`: of attentions, found so far.
    """

    program: Program
    live: frozenset[fx.Node]
    batch: int
    length: int
    examples: Mapping[fx.Node, torch.Tensor] = field(default_factory=dict)
    ids: fx.Node | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    turns: list[tuple[Rope | None, torch.Tensor]] = field(default_factory=list)
    masks: dict[tuple[fx.Node, int], Mask] = field(default_factory=dict)
    order: dict[fx.Node, int] = field(init=False)

    def __post_init__(self) -> None:
        self.order = {node: i for i, node in enumerate(self.program.graph.nodes)}

    def value(self, node: Any, given: Mapping[fx.Node, torch.Tensor] | None = None) -> Any:
        """What a node computes from the example inputs, where the nodes of `given` have these values."""
        if not isinstance(node, fx.Node):
            return node
        return self.values([node], given or {})[0]

    def values(self, nodes: Sequence[fx.Node], given: Mapping[fx.Node, torch.Tensor]) -> list[Any]:
        """Several of them at once. Raises UnrecognizedError where one depends on which tokens are given."""
        found: dict[fx.Node, Any] = {**self.examples, **given}
        needed = sorted(_needed(nodes, found), key=self.order.__getitem__)
        with torch.no_grad():
            for node in needed:
                if self.ids is not None and self.ids in node.all_input_nodes and self.ids not in given and node.target not in _SIZES:
                    raise UnrecognizedError(
                        node, "it depends on which tokens are given (a mask of padding?): llama.cpp has nothing of the kind"
                    )
                found[node] = self._compute(node, found)
        return [found[node] for node in nodes]

    def _compute(self, node: fx.Node, found: Mapping[fx.Node, Any]) -> Any:
        if node.op == "get_attr":
            stored = self.program.stored(str(node.target))
            return stored.float() if stored.dtype in _NARROW else stored
        if node.target is aten.sym_size.int:
            of, axis = node.args
            assert isinstance(of, fx.Node) and isinstance(axis, int)
            return shape_of(self, of)[axis]
        assert node.op == "call_function" and callable(node.target), node.format_node()
        args, kwargs = fx.node.map_aggregate((node.args, node.kwargs), lambda a: _given(a, found))
        return node.target(*args, **kwargs)

    def is_constant(self, node: Any) -> bool:
        """Whether a node is made of weights alone."""
        return isinstance(node, fx.Node) and not any(n.op == "placeholder" for n in _needed([node], {}))

    def weights_of(self, node: fx.Node) -> list[fx.Node]:
        """The stored weights that a node is made of."""
        return sorted(
            (n for n in _needed([node], {}) if n.op == "get_attr" and n.meta["val"].is_floating_point()), key=self.order.__getitem__
        )

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


def _given(argument: Any, found: Mapping[fx.Node, Any]) -> Any:
    if isinstance(argument, fx.Node):
        return found[argument]
    return torch.float32 if isinstance(argument, torch.dtype) and argument in _NARROW else argument


def _needed(nodes: Sequence[fx.Node], given: Mapping[fx.Node, Any], within: frozenset[fx.Node] | None = None) -> set[fx.Node]:
    pending, needed = [n for n in nodes if n not in given], set()
    while pending:
        node = pending.pop()
        if node in needed:
            continue
        needed.add(node)
        operands = [] if node.target is aten.sym_size.int else node.all_input_nodes  # sizes are known
        pending.extend(n for n in operands if n not in given and (within is None or n in within))
    return needed


def shape_of(reader: Reader, node: fx.Node) -> tuple[int, ...]:
    """The shape at the sizes of the examples. Raises UnrecognizedError where it depends on what is the size of no input."""
    shape = node.meta["val"].shape
    unknown = sorted({name for size in shape for name in size_symbols(size)} - reader.sizes.keys())
    if unknown:
        raise UnrecognizedError(node, f"its shape {list(shape)} depends on {', '.join(unknown)}, which is the size of no input")
    return tuple(evaluate(size, reader.sizes) for size in shape)


def strip(node: Any) -> Any:
    """The node whose numbers these are, in the same order, with the same last dimension."""
    while isinstance(node, fx.Node) and (node.target in SAME or _is_only_one(node)):
        before = node.args[0]
        assert isinstance(before, fx.Node)
        old, new = before.meta["val"], node.meta["val"]
        if old.shape[-1:] != new.shape[-1:] or old.dtype.is_floating_point != new.dtype.is_floating_point:
            break
        node = before
    return node


def _is_only_one(node: fx.Node) -> bool:
    """Whether it selects the one entry of an axis."""
    if node.target is not aten.select.int:
        return False
    before, axis = node.args[:2]
    return isinstance(before, fx.Node) and isinstance(axis, int) and before.meta["val"].shape[axis] == 1
