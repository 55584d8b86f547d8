"""Handler: how one ATen operator becomes ONNX, and which of its calls it cannot lower."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from edgecc.targeting.lowering import arguments_of, fake

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


def first(node: fx.Node) -> torch.Tensor:
    """The fake value of a call's only or first result."""
    value = node.meta["val"]
    found: torch.Tensor = value[0] if isinstance(value, (tuple, list)) else value
    return found


def refuse_integers(node: fx.Node, opset: int) -> str | None:
    return None if fake(arguments_of(node)["x"]).is_floating_point() else "integer input"


def at_any_opset(refuse: Callable[[fx.Node], str | None]) -> Refusal:
    """The refusal of a reason that does not depend on the opset."""
    return lambda node, opset: refuse(node)
