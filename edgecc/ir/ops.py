"""Facts about operators: their names, and their arguments in one normal form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx


def operator_name(target: Any) -> str:
    """`aten.gelu` for the default overload, `aten.add.Tensor` for a named one, `getitem` for a Python operator."""
    if isinstance(target, torch._ops.OpOverload):
        return str(target).removesuffix(".default")
    return str(getattr(target, "__name__", target))


def short_name(target: Any) -> str:
    """`gelu`, `add`, `getitem`: what a node that calls the operator is named."""
    parts = operator_name(target).split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def bound_arguments(node: fx.Node) -> dict[str, Any]:
    """Every argument of a call of an ATen operator by its name in the schema, defaults filled in."""
    assert isinstance(node.target, torch._ops.OpOverload), node.format_node()
    bound: dict[str, Any] = {}
    for position, argument in enumerate(node.target._schema.arguments):
        given = node.args[position] if position < len(node.args) else node.kwargs.get(argument.name, argument.default_value)
        bound[argument.name] = given
    return bound


def each(value: Any, axes: int) -> list[Any]:
    """An option for each axis: PyTorch takes one number for all of them."""
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    return values * axes if len(values) == 1 else values


def padding_widths(padding: Any, kernel: Sequence[int], dilation: Sequence[int]) -> list[tuple[int, int]]:
    """What a convolution pads before and after, for each axis. `same` puts the odd one after."""
    if padding == "valid":
        return [(0, 0)] * len(kernel)
    if padding == "same":
        totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return [(t // 2, t - t // 2) for t in totals]
    return [(p, p) for p in each(padding, len(kernel))]
