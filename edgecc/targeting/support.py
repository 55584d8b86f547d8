"""Support check: refuse up front, with every unsupported operator and its source lines, what a target cannot lower."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import fx

from edgecc.errors import UnsupportedError
from edgecc.ir.dtypes import dtype_name
from edgecc.ir.ops import operator_name
from edgecc.ir.program import Program
from edgecc.ir.provenance import describe
from edgecc.targeting.base import Capabilities


def check(program: Program, capabilities: Capabilities, target: str) -> None:
    """Raise UnsupportedError that lists all refused operators, each with its reason and every source line."""
    refused = refusals(program, capabilities)
    if not refused:
        return
    lines = []
    for (operator, reason), nodes in refused.items():
        places = list(dict.fromkeys(describe(n) or n.name for n in nodes))
        more = f" and {len(places) - 5} more" if len(places) > 5 else ""
        lines.append(f"  {operator}: {reason}\n    at " + "; ".join(places[:5]) + more)
    raise UnsupportedError(
        f"{target} cannot lower {len(refused)} kind(s) of operator in this model:\n" + "\n".join(lines),
        hint="replace them in the model, or load a pass that rewrites them (--load FILE.py --insert 'legalize: my-pass')",
    )


def refusals(program: Program, capabilities: Capabilities) -> dict[tuple[str, str], list[fx.Node]]:
    """Refused nodes by operator and reason, in graph order."""
    found: dict[tuple[str, str], list[fx.Node]] = defaultdict(list)
    for node in program.graph.nodes:
        if node.op == "call_function":
            reason = capabilities.refuse(node) or _dtype_reason(node, capabilities)
            if reason:
                found[operator_name(node.target), reason].append(node)
    return found


def refusals_as_a_whole(program: Program, capabilities: Capabilities) -> dict[tuple[str, str], list[fx.Node]]:
    """What refuses a program none of whose operators is refused, in the form of `refusals`."""
    found = capabilities.whole(program) if capabilities.whole is not None else None
    return {} if found is None else {(operator_name(found[0].target), found[1]): [found[0]]}


def _dtype_reason(node: fx.Node, capabilities: Capabilities) -> str | None:
    values = node.meta["val"] if isinstance(node.meta["val"], (tuple, list)) else (node.meta["val"],)
    for value in values:
        if isinstance(value, torch.Tensor) and value.dtype not in capabilities.dtypes:
            return f"dtype {dtype_name(value.dtype)}"
    return None
