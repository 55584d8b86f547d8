"""fold-constants: compute once, at compile time, what does not depend on the inputs.

Every call whose arguments are weights, literals and other such calls is constant; so is `zeros_like(x)` of a value
with static sizes. Only the results that the rest of the program reads become weights. PyTorch computes them with its
own kernels, so their bits are those of the model. A weight is stored contiguous: where a result is not, it is folded
only if all its readers are elementwise and keep their layout, because a matrix product over a transposed weight may
sum in another order (`decompose` turns those into linear). A quantized weight stays quantized: what quantizes it is
computed, what dequantizes it is the target's to place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from edgecc.ir import provenance
from edgecc.ir.program import Program
from edgecc.ir.quantized import is_dequantize, is_quantize
from edgecc.pipeline.base import EXACT, Pass
from edgecc.pipeline.context import PassContext
from edgecc.simplify.layout import aten, inferred, is_contiguous, same_layout, static_shape

_BLIND = (
    *(aten.zeros_like.default, aten.ones_like.default, aten.full_like.default),
    *(aten.new_zeros.default, aten.new_ones.default, aten.new_full.default),
)
"""Operators that read the dtype and the sizes of their first argument, not its elements."""


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Replace constant calls by weights.

    A result may be `max_growth` times as large as the weights that it replaces, or `small` bytes, whichever is more:
    a mask or a position table that an `expand` makes large is cheaper to compute than to ship.
    """

    name = "fold-constants"
    numerics = EXACT
    max_growth: float = 1.0
    small: int = 65536

    def run(self, program: Program, context: PassContext) -> int:
        constants = _constants(program)
        folded = _worth_storing(program, constants, self, context)
        values: dict[fx.Node, Any] = {}
        for node in folded:
            tensor = _evaluate(program, node, values)
            context.applied(node, f"computed at compile time: {list(tensor.shape)}, {tensor.nbytes} bytes")
            weight = program.add_weight(_name(program, node), tensor, node)
            program.stored(str(weight.target)).requires_grad_(tensor.requires_grad)  # PyTorch's choice of kernel looks at it
            program.replace(node, weight)
        return len(folded)


def _name(program: Program, node: fx.Node) -> str:
    """After the module of the call; a quantized weight is named after the weight."""
    if is_quantize(node) and program.is_weight(node.args[0]):
        return f"{node.all_input_nodes[0].target}_quantized"
    return f"{provenance.module_path(node)}.{node.name}".lstrip(".")


def _constants(program: Program) -> dict[fx.Node, frozenset[fx.Node]]:
    """Weights and constant calls, each with the weights that it depends on."""
    found: dict[fx.Node, frozenset[fx.Node]] = {}
    for node in program.graph.nodes:
        if node.op == "get_attr":
            found[node] = frozenset([node])
        elif node.op == "call_function" and _is_repeatable(node):
            inputs = [] if _is_blind(node) else node.all_input_nodes
            if all(i in found for i in inputs) and _is_static(node.meta["val"]):
                found[node] = frozenset().union(*(found[i] for i in inputs))
    return found


def _worth_storing(
    program: Program, constants: dict[fx.Node, frozenset[fx.Node]], limits: FoldConstants, context: PassContext
) -> list[fx.Node]:
    """The constant calls that the rest of the program reads and that may become weights, in graph order.

    From the end to the start: what may not be stored is computed at run time, and its arguments are read there.
    """
    kept: list[fx.Node] = []
    for node in reversed(list(constants)):
        if node.op == "get_attr" or all(user in constants for user in node.users):
            continue
        reason = _refusal(program, node, constants, limits)
        if reason is None:
            kept.append(node)
            continue
        if reason:
            context.missed(node, reason)
        del constants[node]
    return kept[::-1]


def _refusal(program: Program, node: fx.Node, constants: dict[fx.Node, frozenset[fx.Node]], limits: FoldConstants) -> str | None:
    """Why the value of a constant call cannot become a weight; `""` where nobody would expect it to, None if it can."""
    value = node.meta["val"]
    if not isinstance(value, torch.Tensor):
        return ""
    freed = sum(w.meta["val"].nbytes for w in constants[node] if all(user in constants for user in w.users))
    if value.nbytes > max(limits.small, limits.max_growth * freed):
        return f"stays a call: it would store {value.nbytes} bytes in place of {freed}"
    readers = [user for user in node.users if user not in constants]
    if is_contiguous(value) or all(_ignores_layout(program, user, node) for user in readers):
        return None
    return "stays a call: a reader may sum in another order over the stored, contiguous result"


def _ignores_layout(program: Program, user: fx.Node, node: fx.Node) -> bool:
    """Whether an elementwise user keeps its own layout when `node` is contiguous."""
    if not isinstance(user.target, torch._ops.OpOverload) or torch.Tag.pointwise not in user.target.tags:
        return False
    contiguous = inferred(program, aten.clone.default, (node,), {"memory_format": torch.contiguous_format})
    args, kwargs = fx.node.map_arg((user.args, user.kwargs), lambda n: contiguous if n is node else n.meta["val"])
    return same_layout(inferred(program, user.target, args, kwargs), user.meta["val"])


def _evaluate(program: Program, node: fx.Node, values: dict[fx.Node, Any]) -> torch.Tensor:
    """Compute a constant call with PyTorch's kernels, each call once."""
    pending = [node]
    while pending:
        current = pending[-1]
        inputs = [] if _is_blind(current) else [i for i in current.all_input_nodes if i not in values]
        if inputs:
            pending.extend(inputs)
            continue
        pending.pop()
        if current not in values:
            values[current] = _compute(program, current, values)
    result = values[node]
    assert isinstance(result, torch.Tensor)
    return result


def _compute(program: Program, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    if node.op == "get_attr":
        return program.stored(str(node.target))
    blank = node.args[0] if _is_blind(node) else None
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: _blank(n) if n is blank else values[n])
    assert callable(node.target)
    with torch.no_grad():
        return node.target(*args, **kwargs)


def _blank(node: fx.Node) -> torch.Tensor:
    """A tensor of the dtype, and where they are static the sizes, of a value that is not constant."""
    value = node.meta["val"]
    shape = static_shape(value)
    return torch.empty(0, dtype=value.dtype) if shape is None else torch.empty_strided(shape, value.stride(), dtype=value.dtype)


def _is_repeatable(node: fx.Node) -> bool:
    """Whether the call gives the same each time, and is not kept for its own sake: not random, dropout only where it is off."""
    if is_dequantize(node):
        return False
    if not isinstance(node.target, torch._ops.OpOverload):
        return True
    uninitialized = node.target._schema.name.startswith(("aten::empty", "aten::new_empty"))
    return torch.Tag.nondeterministic_seeded not in node.target.tags and "dropout" not in node.target._schema.name and not uninitialized


def _is_blind(node: fx.Node) -> bool:
    """Whether the call looks at no element: what it makes is constant where its own sizes are static."""
    return node.target in _BLIND and len(node.all_input_nodes) == 1


def _is_static(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_static(v) for v in value)
    return isinstance(value, torch.Tensor) and static_shape(value) is not None and math.prod(value.shape) > 0
