"""NormalForm: the nodes of one graph read as expressions, lazily, without changing the graph.

A node is read once, into an expression over the nodes it depends on. A sum of sums or a product of products is
flattened through values that nothing else reads, up to eight operands, so that a long residual chain costs no more
than its length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import fx

from edgecc.ir.ops import bound_arguments, operator_name
from edgecc.rewrite.expression import Call, Product, Sum, Term
from edgecc.rewrite.formulas import FORMULAS, item_of_tuple
from edgecc.rewrite.reading import Reader, View
from edgecc.rewrite.transparent import is_transparent, resolved

Constant = Callable[[fx.Node], torch.Tensor]


class NormalForm:
    """Reads nodes on demand. `constant` gives the tensor of a `get_attr` node."""

    def __init__(self, constant: Constant) -> None:
        self.constant = constant
        self.kinds: set[str] = set()
        self._views: dict[fx.Node, View] = {}

    def view(self, node: fx.Node) -> View:
        """The node as an expression; the node itself where nothing is known about it."""
        found = self._views.get(node)
        if found is not None:
            return found
        pending = [node]
        while pending:  # a stack of its own: a chain of ten thousand nodes must not recurse
            current = pending[-1]
            missing = [n for n in current.all_input_nodes if n not in self._views]
            if missing:
                pending += missing
                continue
            pending.pop()
            if current not in self._views:
                self._views[current] = view = self._read(current)
                self.kinds.update(kinds_of(view.term))
        return self._views[node]

    def open(self, term: Term) -> tuple[Term, frozenset[fx.Node]]:
        """The expression behind a term, and the nodes that compute it."""
        if not isinstance(term, fx.Node):
            return term, frozenset()
        node = resolved(term)
        view = self.view(node)
        return view.term, view.absorbed | {node}

    def same(self, a: Term, b: Term, depth: int) -> bool:
        """Whether two terms are the same value: the same node, or `x - mean(x)` once as nodes and once inside of `var(x)`."""
        if a == b or depth == 0 or (isinstance(a, fx.Node) and isinstance(b, fx.Node)):
            return a == b
        a, b = self.open(a)[0], self.open(b)[0]
        if isinstance(a, Sum) and isinstance(b, Sum):
            left, right = [(c, t) for c, t in a.terms], [(c, t) for c, t in b.terms]
            constant = a.literal == b.literal
        elif isinstance(a, Product) and isinstance(b, Product):
            left, right = [(e, f) for f, e in a.factors], [(e, f) for f, e in b.factors]
            constant = a.literal == b.literal
        elif isinstance(a, Call) and isinstance(b, Call):
            left, right = [(1.0, t) for t in a.args], [(1.0, t) for t in b.args]
            constant = (a.kind, a.attributes) == (b.kind, b.attributes)
        else:
            return a == b
        pairs = zip(left, right, strict=False)
        return constant and len(left) == len(right) and all(c == d and self.same(t, u, depth - 1) for (c, t), (d, u) in pairs)

    def _read(self, node: fx.Node) -> View:
        reader = Reader(self, node)
        return View(_term(reader), frozenset(reader.absorbed), frozenset(reader.seen))

    def literal(self, node: fx.Node) -> float | None:
        """The value of a constant with one element."""
        value = node.meta.get("val")
        if node.op != "get_attr" or not isinstance(value, torch.Tensor) or value.numel() != 1 or value.dtype == torch.bool:
            return None
        return float(self.constant(node).item())

    def forget(self, changed: Iterable[fx.Node], users: Iterable[fx.Node]) -> None:
        """Drop what was read through nodes that a rewrite changed; `users` read the result of the rewrite."""
        stale = set(changed)
        pending = list(users)
        for node in stale:
            self._views.pop(node, None)
        while pending:
            user = pending.pop()
            view = self._views.get(user)
            if view is not None and not stale.isdisjoint(view.seen):
                del self._views[user]
                stale.add(user)
                pending += user.users


def _term(reader: Reader) -> Term:
    node = reader.node
    if node.op != "call_function" or not isinstance(node.meta.get("val"), torch.Tensor):
        return node
    if is_transparent(node):
        return reader.operand(node)
    if not isinstance(node.target, torch._ops.OpOverload):
        return item_of_tuple(reader) or node
    formula = FORMULAS.get(node.target.overloadpacket)
    term = formula(reader, bound_arguments(node)) if formula is not None else None
    return term if term is not None else _opaque(reader)


def _opaque(reader: Reader) -> Term:
    """An operator without a formula: its tensors are terms, the rest of its arguments attributes."""
    args: list[Term] = []

    def attribute(value: Any) -> Any:
        if isinstance(value, fx.Node):
            args.append(resolved(value))
            return "tensor"
        return tuple(map(attribute, value)) if isinstance(value, (list, tuple)) else value

    attributes = tuple((name, attribute(value)) for name, value in bound_arguments(reader.node).items())
    reader.seen.update(a for a in args if isinstance(a, fx.Node))
    return Call(operator_name(reader.node.target), tuple(args), attributes, reader.shape)


def kinds_of(term: Term) -> set[str]:
    """Kinds of the calls in an expression."""
    found, pending = set(), [term]
    while pending:
        term = pending.pop()
        if isinstance(term, Call):
            found.add(term.kind)
            pending += term.args
        elif isinstance(term, Sum):
            pending += [t for _, t in term.terms]
        elif isinstance(term, Product):
            pending += [f for f, _ in term.factors]
    return found
