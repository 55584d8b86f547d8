"""eliminate-common-subexpressions: what is computed twice is computed once, and what is stored twice is stored once."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from edgecc.ir.lazy import identity, read
from edgecc.ir.program import Program
from edgecc.pipeline.base import EXACT, Pass
from edgecc.pipeline.context import PassContext

_RANDOM = torch.Tag.nondeterministic_seeded


@dataclass(frozen=True)
class EliminateCommonSubexpressions(Pass):
    """Let equal calls share one node, and weights that are the same tensor one name.

    `equal_weights` merges different tensors of equal dtype, shape and bytes too. It is off because they become tied:
    a later pass that changes one, and training, would change both, and fresh norms are all ones.
    """

    name = "eliminate-common-subexpressions"
    numerics = EXACT
    equal_weights: bool = False

    def run(self, program: Program, context: PassContext) -> int:
        merged = _merge_weights(program, context, self.equal_weights)
        first: dict[Hashable, fx.Node] = {}
        for node in program.calls():
            if _is_random(node):
                continue
            same = first.setdefault((node.target, _key(node.args), _key(node.kwargs)), node)
            if same is not node:
                context.applied(node, f"the same as {same.name}")
                program.replace(node, same)
                merged += 1
        return merged


def _merge_weights(program: Program, context: PassContext, by_content: bool) -> int:
    """Let nodes of one tensor be one node: the first in graph order."""
    nodes = [n for n in program.graph.nodes if n.op == "get_attr"]
    alike: dict[Hashable, list[fx.Node]] = defaultdict(list)
    for node in nodes:
        tensor = program.weight(node)
        alike[tensor.dtype, tuple(tensor.shape), tuple(tensor.stride())].append(node)
    merged = 0
    for group in alike.values():
        first: dict[Hashable, fx.Node] = {}
        for node in group if len(group) > 1 else ():
            same = first.setdefault(_content(program.weight(node)) if by_content else identity(program.weight(node)), node)
            if same is not node:
                context.applied(node, f"the same weight as {same.target}")
                program.replace(node, same)
                merged += 1
    return merged


def _content(tensor: torch.Tensor) -> bytes:
    """SHA-256 of the elements, in the order of the strides that the caller has compared."""
    return hashlib.sha256(read(tensor).contiguous().flatten().view(torch.uint8).numpy().data).digest()


def _is_random(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and _RANDOM in node.target.tags


def _key(argument: Any) -> Hashable:
    """An argument as a dictionary key that tells apart what Python calls equal: 1, 1.0 and True, 0.0 and -0.0."""
    if isinstance(argument, fx.Node):
        return argument
    if isinstance(argument, (list, tuple)):
        return ("sequence", *map(_key, argument))
    if isinstance(argument, dict):
        return ("mapping", *((name, _key(argument[name])) for name in sorted(argument)))
    if isinstance(argument, slice):
        return ("slice", _key((argument.start, argument.stop, argument.step)))
    return type(argument).__name__, repr(argument)
