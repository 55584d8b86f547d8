"""Handler: how one ATen operator becomes Relax, and which of its calls it cannot lower."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from edgecc.targeting.lowering import fake

Value = Any  # a Relax expression, a TVM integer, a Python number, None, or a list of these
Refusal = Callable[[fx.Node], str | None]


@dataclass(frozen=True)
class Handler:
    """`lower(builder, node, **arguments)` returns the value of the call, a list for several results.

    The arguments come by their names in the operator's schema, values instead of nodes, `self` and `input` as `x`.
    `refuse(node)` returns why this call cannot be lowered, or None.
    """

    lower: Callable[..., Value]
    refuse: Refusal | None = None


Handlers = dict[Callable[..., Any], Handler]


def handlers(lower: Callable[..., Value], *targets: Callable[..., Any], refuse: Refusal | None = None) -> Handlers:
    """The same handler for several operators."""
    return dict.fromkeys(targets, Handler(lower, refuse))


def is_tensor(value: Any) -> bool:
    return isinstance(fake(value), torch.Tensor)
