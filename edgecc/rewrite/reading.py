"""Reader: the arguments of one node as terms, and the algebra that flattens them into sums and products."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import fx

from edgecc.rewrite.expression import Call, Literal, Product, Shape, Sum, Term, shape_of, simplified, split
from edgecc.rewrite.transparent import is_private, resolved

LARGEST = 8  # operands of a flattened sum or product


@dataclass(frozen=True)
class View:
    """A node read as `term`. `seen` are the nodes it was read through; `absorbed` those among them that only it reads."""

    term: Term
    absorbed: frozenset[fx.Node]
    seen: frozenset[fx.Node]


class Views(Protocol):
    """Where a reader finds what has been read already."""

    def view(self, node: fx.Node) -> View: ...

    def literal(self, node: fx.Node) -> float | None: ...


class Reader:
    """Reads the arguments of one node, and keeps account of the nodes it looked through."""

    def __init__(self, form: Views, node: fx.Node) -> None:
        self.form, self.node = form, node
        self.shape = shape_of(node)
        self.absorbed: set[fx.Node] = set()
        self.seen: set[fx.Node] = set()

    def operand(self, value: Any) -> Term:
        """An argument as a term: a number, or the node that its value comes from."""
        if not isinstance(value, fx.Node):
            return Literal(float(value))
        node = resolved(value)
        literal = self.form.literal(node)
        if literal is not None:
            return Literal(literal)
        self.seen.add(node)
        term = self.form.view(node).term
        if isinstance(term, Literal) or (isinstance(term, fx.Node) and term is not node):
            self.look_through(node)
            return term
        return node

    def expanded(self, term: Term) -> Term:
        """The expression behind a term that nothing else reads; the term itself where something does."""
        if not isinstance(term, fx.Node) or not is_private(term):
            return term
        return self.form.view(term).term

    def look_through(self, node: fx.Node) -> None:
        """Count a node, and what was read through it, as part of this one."""
        view = self.form.view(node)
        self.seen |= view.seen | {node}
        if is_private(node):
            self.absorbed |= view.absorbed | {node}

    def unscaled(self, value: Any) -> tuple[float, Term]:
        """An argument of a linear operator as a literal factor and the rest."""
        term = self.operand(value)
        literal, rest = split(self.expanded(term))
        if literal == 1.0 or isinstance(rest, Literal):
            return 1.0, term
        assert isinstance(term, fx.Node)
        self.look_through(term)
        return literal, rest

    def behind(self, value: Any, kind: str) -> Term:
        """An argument, looked through where it is a call of this kind (which costs nothing to repeat)."""
        term = self.operand(value)
        found = self.form.view(term).term if isinstance(term, fx.Node) else term
        if not isinstance(found, Call) or found.kind != kind:
            return term
        if isinstance(term, fx.Node):
            self.look_through(term)
        return found

    # -- algebra

    def sum(self, parts: Iterable[tuple[float, Term]], shape: Shape | None = None) -> Term:
        """`c1 * t1 + c2 * t2 + ...`, flattened."""
        literal, terms = 0.0, dict[Term, float]()
        for scale, term in parts:
            inner = self.expanded(term)
            through: Term | None = term
            if isinstance(inner, Sum) and len(terms) + len(inner.terms) < LARGEST:
                literal += scale * inner.literal
                summands = [(scale * c, t) for c, t in inner.terms]
            elif isinstance(inner, Product) and inner.literal != 1.0:
                factor, rest = split(inner)
                summands = [(scale * factor, rest)]
            elif isinstance(inner, Literal):
                literal += scale * inner.value
                summands = []
            else:
                summands, through = [(scale, term)], None
            if isinstance(through, fx.Node):
                self.look_through(through)
            for c, t in summands:
                terms[t] = terms.get(t, 0.0) + c
        return _sum(literal, terms, self.shape if shape is None else shape)

    def product(self, parts: Iterable[tuple[Term, float]], literal: float = 1.0, shape: Shape | None = None) -> Term:
        """`literal * t1**e1 * t2**e2 * ...`, flattened."""
        parts, shape = list(parts), self.shape if shape is None else shape
        flat = self._flattened(parts, literal)
        if flat is None:
            for term, exponent in parts:  # `x**2 / x`: as it is written, or as an operator of its own for `x / x`
                if [t for t, e in parts if e * exponent < 0].count(term):
                    return self.call("quotient", *(t for t, _ in parts), shape=shape)
            flat = Product(literal, tuple(parts), shape), []
        product, through = flat
        for node in through:
            self.look_through(node)
        return simplified(Product(product.literal, product.factors, shape))

    def _flattened(self, parts: Iterable[tuple[Term, float]], literal: float) -> tuple[Product, list[fx.Node]] | None:
        """The product and the nodes it was read through; None where one factor would have exponents of both signs."""
        factors, through = dict[Term, float](), []
        for term, exponent in parts:
            raised = _raised(self.expanded(term), exponent)
            if raised is None or len(factors) + len(raised[1]) >= LARGEST:
                raised = (1.0, ((term, exponent),))
            elif isinstance(term, fx.Node):
                through.append(term)
            if not _mergeable(factors, raised[1]):
                return None
            literal *= raised[0]
            for t, e in raised[1]:
                factors[t] = factors.get(t, 0.0) + e
        return Product(literal, tuple(factors.items()), ()), through

    def call(self, kind: str, *args: Term, shape: Shape | None = None, **attributes: Any) -> Call:
        return Call(kind, args, tuple(attributes.items()), self.shape if shape is None else shape)

    def axes(self, value: Any, rank: int) -> tuple[int, ...]:
        """Axes counted from the end, sorted; every axis for None or an empty list."""
        if value is None or value == []:
            return tuple(range(-rank, 0))
        return tuple(sorted(a % rank - rank for a in ([value] if isinstance(value, int) else value)))


Arguments = dict[str, Any]
Read = Callable[[Reader, Arguments], "Term | None"]


def is_algebraic(reader: Reader) -> bool:
    """Whether the rules of real numbers hold: every tensor is of the same floating dtype as the result."""
    dtype = reader.node.meta["val"].dtype
    values = [n.meta.get("val") for n in reader.node.all_input_nodes]
    return dtype.is_floating_point and all(isinstance(v, torch.Tensor) and (v.dtype == dtype or v.dim() == 0) for v in values)


def _sum(literal: float, terms: dict[Term, float], shape: Shape) -> Term:
    kept = tuple((c, t) for t, c in terms.items() if c != 0.0)
    if not kept:
        return Literal(literal)
    if literal == 0.0 and len(kept) == 1:
        (scale, term), *_ = kept
        factors = term.factors if isinstance(term, Product) else ((term, 1.0),)
        return simplified(Product(scale * (term.literal if isinstance(term, Product) else 1.0), factors, shape))
    return Sum(literal, kept, shape)


def _raised(term: Term, exponent: float) -> tuple[float, tuple[tuple[Term, float], ...]] | None:
    """A product to a power as literal and factors; None where it does not distribute: `(x**2)**0.5` is `|x|`."""
    if isinstance(term, Literal):
        return (math.pow(term.value, exponent), ()) if term.value > 0 or (exponent == int(exponent) and term.value != 0) else None
    if not isinstance(term, Product):
        return None
    if exponent == int(exponent):
        if term.literal == 0:
            return None
        return math.pow(term.literal, exponent), tuple((f, e * exponent) for f, e in term.factors)
    ((factor, inner), *more) = term.factors
    if more or term.literal <= 0 or not (inner == 1.0 or inner != int(inner)):
        return None
    return math.pow(term.literal, exponent), ((factor, inner * exponent),)


def _mergeable(factors: dict[Term, float], more: Iterable[tuple[Term, float]]) -> bool:
    """Whether equal factors keep the sign of their exponent: `x**2 * x**-1` is not `x` at zero."""
    return all(factors.get(t, e) * e > 0 for t, e in more)
