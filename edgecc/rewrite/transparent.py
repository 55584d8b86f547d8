"""Transparent nodes: calls that return their first argument unchanged, such as dropout at inference or a cast to the same dtype."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from edgecc.ir.ops import bound_arguments
from edgecc.rewrite.expression import shape_of

aten = torch.ops.aten

_ALWAYS = {aten.alias, aten.clone, aten.contiguous, aten.detach, aten.detach_, aten.lift_fresh_copy, aten.positive}
_CASTS = {aten.to, aten._to_copy, aten.type_as}
_DROPOUTS = {aten.dropout, aten.feature_dropout, aten.alpha_dropout, aten.feature_alpha_dropout}
_SHAPES = {aten.view, aten.reshape, aten._unsafe_view, aten.expand, aten.flatten, aten.squeeze, aten.slice}
_NEUTRAL = {aten.mul: 1, aten.div: 1, aten.add: 0, aten.sub: 0}


def is_transparent(node: Any) -> bool:
    """Whether the node is its first argument, value by value. Judged from the node alone."""
    if not isinstance(node, fx.Node) or not isinstance(node.target, torch._ops.OpOverload):
        return False
    packet = node.target.overloadpacket
    if packet in _ALWAYS:
        return True
    if packet in _DROPOUTS:
        return bound_arguments(node)["train"] is False or bound_arguments(node)["p"] == 0.0
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node) or not isinstance(node.meta.get("val"), torch.Tensor) or not isinstance(source.meta.get("val"), torch.Tensor):
        return False
    if packet in _CASTS:
        return bool(source.meta["val"].dtype == node.meta["val"].dtype and source.meta["val"].device == node.meta["val"].device)
    if packet in _SHAPES:
        return shape_of(source) == shape_of(node) and _keeps_order(node)
    if packet in _NEUTRAL and len(node.args) > 1 and not node.kwargs:
        return type(node.args[1]) in (int, float) and node.args[1] == _NEUTRAL[packet] and _same_type(source, node)
    return False


def resolved(node: fx.Node) -> fx.Node:
    """The node that the value comes from, behind all transparent ones."""
    while is_transparent(node):
        source = node.args[0]
        assert isinstance(source, fx.Node)
        node = source
    return node


def readers(node: fx.Node) -> Iterator[fx.Node]:
    """The users of a value, seen through transparent nodes. An output counts as a user."""
    pending = list(node.users)
    while pending:
        user = pending.pop()
        if is_transparent(user):
            pending.extend(user.users)
        else:
            yield user


def is_private(node: fx.Node) -> bool:
    """Whether exactly one call reads the value."""
    found = readers(node)
    return next(found, None) is not None and next(found, None) is None


def _keeps_order(node: fx.Node) -> bool:
    return node.target != aten.slice.Tensor or bound_arguments(node)["step"] == 1


def _same_type(source: fx.Node, node: fx.Node) -> bool:
    return bool(source.meta["val"].dtype == node.meta["val"].dtype)
