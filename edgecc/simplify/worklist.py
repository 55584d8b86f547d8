"""Worklist: apply local rules to a program until none applies, in time near linear in its length."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import fx

from edgecc.ir.program import Program


class Missed(str):
    """Why a rule leaves a node alone that it might have rewritten."""


Rule = Callable[[Program, fx.Node], str | None]
"""Rewrite one call in place, and say what was done; None where the rule does not apply, Missed where it refuses.

A rule inserts new calls right before the node, and erases at most the node and what only it used."""


def rewrite_to_fixed_point(
    program: Program,
    rules: Mapping[Any, Sequence[Rule]],
    applied: Callable[[fx.Node, str], None],
    missed: Callable[[fx.Node, str], None],
) -> int:
    """Apply `rules`, by the target of a call, until nothing changes; the rules under None are for every call.

    A node is looked at again when it, an argument or a user of it changed. Returns the number of rewrites.
    """
    known = set(program.graph.nodes)
    queue = _Queue(program.calls())
    everywhere = tuple(rules.get(None, ()))
    count = 0
    while queue:
        node = queue.pop()
        if node._erased:
            continue
        users, following = list(node.users), node.next
        for rule in (*rules.get(node.target, ()), *everywhere):
            said = rule(program, node)
            if isinstance(said, Missed):
                missed(node, said)
            elif said is not None:
                applied(node, said)
                count += 1
                queue.extend(_fresh(following if node._erased else node, known))
                queue.extend([node, *node.users, *users, *(n for user in users for n in user.all_input_nodes)])
                break
    return count


def _fresh(end: fx.Node, known: set[fx.Node]) -> list[fx.Node]:
    """The nodes right before `end` that were not there when they were last looked at."""
    found = []
    node = end.prev
    while node not in known and node.op != "root":
        found.append(node)
        node = node.prev
    known.update(found)
    return found[::-1]


class _Queue:
    """First in, first out, each node at most once at a time."""

    def __init__(self, nodes: Iterable[fx.Node]) -> None:
        self._nodes = deque(nodes)
        self._waiting = set(self._nodes)

    def __bool__(self) -> bool:
        return bool(self._nodes)

    def pop(self) -> fx.Node:
        node = self._nodes.popleft()
        self._waiting.discard(node)
        return node

    def extend(self, nodes: Iterable[fx.Node]) -> None:
        for node in nodes:
            if node.op == "call_function" and node not in self._waiting and not node._erased:
                self._waiting.add(node)
                self._nodes.append(node)
