"""Transparent nodes: calls that return their first argument unchanged, such as dropout at inference or a cast to the same dtype."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx

from edgecc.ir.ops import bound_arguments
from edgecc.rewrite.expression import shape_of

aten = torch.ops.aten


def is_transparent(node: fx.Node) -> bool:
    """Whether the node is its first argument, value by value. Judged from the node alone."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return False
    test = _TESTS.get(target.overloadpacket)
    return test is not None and isinstance(node.args[0], fx.Node) and test(node, node.args[0])


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


def _always(node: fx.Node, source: fx.Node) -> bool:
    return True


def _is_idle_dropout(node: fx.Node, source: fx.Node) -> bool:
    a = bound_arguments(node)
    return a["train"] is False or a["p"] == 0.0


def _keeps_type(node: fx.Node, source: fx.Node) -> bool:
    new, old = node.meta["val"], source.meta["val"]
    return bool(new.dtype == old.dtype and new.device == old.device)


def _keeps_shape(node: fx.Node, source: fx.Node) -> bool:
    return shape_of(node) == shape_of(source)


def _is_whole(node: fx.Node, source: fx.Node) -> bool:
    return bound_arguments(node)["step"] == 1 and _keeps_shape(node, source)


def _adds_nothing(neutral: float) -> Test:
    """Whether the other operand is the neutral number, and the dtype stays."""

    def test(node: fx.Node, source: fx.Node) -> bool:
        other: Any = node.args[1] if len(node.args) > 1 else None
        return type(other) in (int, float) and other == neutral and not node.kwargs and _keeps_type(node, source)

    return test


Test = Callable[[fx.Node, fx.Node], bool]
_TESTS: dict[Any, Test] = {
    **dict.fromkeys([aten.alias, aten.clone, aten.contiguous, aten.detach, aten.detach_, aten.lift_fresh_copy, aten.positive], _always),
    **dict.fromkeys([aten.to, aten._to_copy, aten.type_as], _keeps_type),
    **dict.fromkeys([aten.dropout, aten.feature_dropout, aten.alpha_dropout, aten.feature_alpha_dropout], _is_idle_dropout),
    **dict.fromkeys([aten.view, aten.reshape, aten._unsafe_view, aten.expand, aten.flatten, aten.squeeze], _keeps_shape),
    **dict.fromkeys([aten.mul, aten.div], _adds_nothing(1)),
    **dict.fromkeys([aten.add, aten.sub], _adds_nothing(0)),
    aten.slice: _is_whole,
}
