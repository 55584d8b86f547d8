"""widen-floats: a program of half precision computed in float32, with the same weights, for runtimes that compute so."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import fx

from edgecc.ir.lazy import Lazy
from edgecc.ir.program import Program
from edgecc.pipeline.base import LOSSY, Pass
from edgecc.pipeline.context import PassContext

to = torch.ops.aten.to.dtype
_HALVES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class WidenFloats(Pass):
    """float16 and bfloat16 values become float32: weights hold the same numbers, nothing between them is rounded to half precision.

    Inputs and outputs keep their dtypes. Weights in memory stay as they are, and are widened where they are used.
    """

    name = "widen-floats"
    numerics = LOSSY  # against the program in half precision, which is the one that rounds

    def run(self, program: Program, context: PassContext) -> int:
        halves = [n for n in program.graph.nodes if _is_half(n)]
        if not halves:
            return 0
        outputs = [n.meta["val"].dtype for n in program.outputs()]
        for node in program.graph.nodes:
            if node.op == "get_attr" and _is_half(node):
                weight = program.weight(node)
                program.set_weight(node, Lazy(partial(_widened, weight), weight.shape))
        for node in [n for n in program.inputs() if _is_half(n)]:
            _cast_after(program, node)
        for node in program.calls():
            node.args, node.kwargs = _mapped(node.args), _mapped(node.kwargs)
            if not (node.target is to and node.args[0] in program.inputs()):
                program.infer(node)
        _cast_outputs(program, outputs)
        context.applied(halves[0], f"{len(halves)} values of half precision computed in float32")
        return len(halves)


def _is_half(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), torch.Tensor) and node.meta["val"].dtype in _HALVES and not _is_edge(node)


def _is_edge(node: fx.Node) -> bool:
    """Casts from an input and to an output, which are all that is left of half precision in a program that was widened."""
    if node.op == "placeholder":
        return all(u.target is to and u.args[1] == torch.float32 for u in node.users)
    return node.target is to and node.args[0].meta["val"].dtype == torch.float32 and all(u.op == "output" for u in node.users)  # type: ignore[union-attr]


def _widened(weight: torch.Tensor) -> torch.Tensor:
    return weight.float()


def _mapped(arguments: Any) -> Any:
    """Arguments with float32 in the place of half precision."""
    return fx.node.map_aggregate(arguments, lambda value: torch.float32 if value in _HALVES else value)


def _cast_after(program: Program, node: fx.Node) -> None:
    first = next(iter(node.users))
    cast = program.call_before(first, to, node, torch.float32)
    node.replace_all_uses_with(cast, delete_user_cb=lambda user: user is not cast)


def _cast_outputs(program: Program, dtypes: list[torch.dtype]) -> None:
    end = program.graph.output_node()
    cast = []
    for node, dtype in zip(program.outputs(), dtypes, strict=True):
        if node.meta["val"].dtype == dtype:
            cast.append(node)
            continue
        with program.graph.inserting_before(end):
            made = program.graph.create_node("call_function", to, (node, dtype), {}, name="to")
        made.meta = {**node.meta}
        program.infer(made)
        cast.append(made)
    end.args = (tuple(cast),)
