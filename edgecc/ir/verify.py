"""Structural verifier: what must hold of a program after every pass."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from edgecc.errors import InternalError
from edgecc.ir.program import Program, stored_weights
from edgecc.ir.provenance import describe
from edgecc.ir.text import call_text, value_type

SIZE_OPERATORS = frozenset(
    {operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod, operator.neg, operator.pow, operator.truediv}
)
SIZE_OPERATORS |= {torch.sym_max, torch.sym_min, torch.sym_float, torch.sym_int, torch.sym_not, torch.sym_ite}
COMPARISONS = frozenset({operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge, operator.and_, operator.or_})


def verify(program: Program) -> None:
    """Raise InternalError that lists everything wrong.

    Every call is an ATen overload (not in-place), `getitem` or arithmetic on sizes; every node has a fake value;
    definitions come before uses; inputs and outputs are those of the signature; each stored tensor has a node and
    each weight node a tensor and a user.
    """
    try:
        program.graph.lint()
    except RuntimeError as error:
        raise InternalError(f"the graph is malformed: {error}") from error
    problems = [p for node in program.graph.nodes for p in _node_problems(program, node)] + _boundary_problems(program)
    used = {str(n.target) for n in program.graph.nodes if n.op == "get_attr"}
    problems += [f"stray weight {name!r}: no node reads it" for name in stored_weights(program.module) if name not in used]
    if problems:
        raise InternalError("the program is not well formed:\n  " + "\n  ".join(problems))


def _node_problems(program: Program, node: fx.Node) -> list[str]:
    place = f"%{node.name}" + (f" ({describe(node)})" if describe(node) else "")
    if node.op == "output":
        return []
    if "val" not in node.meta and not (node.op == "call_function" and _returns_nothing(node)):
        return [f"{place} has no fake value (meta['val'])"]
    if node.op == "get_attr":
        value, stored = node.meta["val"], program.weight(node)
        unused = [] if node.users else [f"weight {place} has no user"]
        wrong = tuple(value.shape) != tuple(stored.shape) or value.dtype != stored.dtype
        return unused + ([f"weight {place} is {value_type(stored, {})}, its node says {value_type(value, {})}"] if wrong else [])
    if node.op == "call_function":
        return [f"{place} calls {node.target}, {why}: {call_text(node)}" for why in [_target_problem(node.target)] if why]
    return [] if node.op == "placeholder" else [f"{place} is a {node.op} node, which a program does not have"]


def _returns_nothing(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and not node.target._schema.returns


def _target_problem(target: Any) -> str:
    if isinstance(target, torch._ops.OpOverload):
        mutable = target._schema.is_mutable and target is not torch.ops.aten.detach_.default
        return "which writes in place" if mutable else ""
    if target is operator.getitem or target in SIZE_OPERATORS or target in COMPARISONS:
        return ""
    return "which is not an ATen overload"


def _boundary_problems(program: Program) -> list[str]:
    signature, problems = program.signature, []
    for side, nodes, specs in (("input", program.inputs(), signature.inputs), ("output", program.outputs(), signature.outputs)):
        if len(nodes) != len(specs):
            problems.append(f"{len(nodes)} {side}s, the signature says {len(specs)}")
            continue
        for node, spec in zip(nodes, specs, strict=True):
            value = node.meta.get("val")
            if not isinstance(value, torch.Tensor) or value.dtype != spec.dtype or value.dim() != len(spec.shape):
                problems.append(f"{side} {node.name} is {value_type(value, {})}, the signature says {spec}")
    return problems
