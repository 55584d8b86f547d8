"""Handler: how one ATen operator becomes ONNX, and which of its calls it cannot lower."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from edgecc.ir.ops import bound_arguments

Value = Any  # an onnx_ir.Value, a number, a symbolic size, None, or a list of these
Refusal = Callable[[fx.Node, int], "str | None"]


@dataclass(frozen=True)
class Handler:
    """`lower(builder, node, **arguments)` returns the value of the call, a list for several results.

    The arguments come by their names in the operator's schema, values instead of nodes, `self` and `input` as `x`.
    `refuse(node, opset)` returns why this call cannot be lowered, or None.
    """

    lower: Callable[..., Value]
    refuse: Refusal | None = None


HALF = (torch.float16, torch.bfloat16)
SINGLE = (torch.float32, *HALF)  # what has at most the digits of float32
Handlers = dict[Callable[..., Any], Handler]


def handlers(lower: Callable[..., Value], *targets: Callable[..., Any], refuse: Refusal | None = None) -> Handlers:
    """The same handler for several operators."""
    return dict.fromkeys(targets, Handler(lower, refuse))


def arguments_of(node: fx.Node) -> dict[str, Any]:
    """The arguments of a call by name, defaults filled in, the first operand as `x`."""
    bound = bound_arguments(node)
    return {{"self": "x", "input": "x"}.get(name, name): value for name, value in bound.items()}


def fake(value: Any) -> Any:
    """The fake value of a node; anything else as it is."""
    return value.meta["val"] if isinstance(value, fx.Node) else value


def first(node: fx.Node) -> torch.Tensor:
    """The fake value of a call's only or first result."""
    value = node.meta["val"]
    found: torch.Tensor = value[0] if isinstance(value, (tuple, list)) else value
    return found


def refuse_integers(node: fx.Node, opset: int) -> str | None:
    return None if fake(arguments_of(node)["x"]).is_floating_point() else "integer input"


def refuse_other_results(node: fx.Node, opset: int) -> str | None:
    """Why a call of several results, of which only the first is lowered, cannot be: something reads another one."""
    others = [user.args[1] for user in node.users if len(user.args) > 1 and user.args[1] != 0]
    return f"result {others[0]} is read, only the first can be lowered" if others else None


def each(value: Any, axes: int) -> list[Any]:
    """An option for each axis: PyTorch takes one number for all of them."""
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    return values * axes if len(values) == 1 else values
