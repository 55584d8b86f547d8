"""Expressions: what a node computes, as a small algebraic term over other nodes.

Pattern and program are read into the same terms, so that every spelling of a formula becomes one. A term is a node
of the graph, taken as it is, or an expression over terms that need not stand in the graph at all: `var(x)` reads as
`mean((x - mean(x))**2)`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import sympy
import torch
from torch import fx

from edgecc.ir.fake import size_expression

Extent: TypeAlias = "int | sympy.Expr"  # a size read off the graph, symbolic ones as expressions
Shape: TypeAlias = tuple[Extent, ...]

TOLERANCE = 1e-6  # of literals, relative: float32 constants carry 6e-8, a spelled-out sqrt(2/pi) ten digits


@dataclass(frozen=True)
class Literal:
    """A number that the trace fixed: a Python scalar, or a constant with one element."""

    value: float


@dataclass(frozen=True)
class Sum:
    """`literal + c1 * t1 + c2 * t2 + ...`, every term once."""

    literal: float
    terms: tuple[tuple[float, Term], ...]
    shape: Shape


@dataclass(frozen=True)
class Product:
    """`literal * f1**e1 * f2**e2 * ...`, every factor once. A root or a quotient is a factor with its exponent."""

    literal: float
    factors: tuple[tuple[Term, float], ...]
    shape: Shape


@dataclass(frozen=True)
class Call:
    """Any other operator. `attributes` are its arguments that are no tensors, with axes counted from the end."""

    kind: str
    args: tuple[Term, ...]
    attributes: tuple[tuple[str, Any], ...]
    shape: Shape


Expression = Literal | Sum | Product | Call
Term = fx.Node | Literal | Sum | Product | Call


def shape_of(term: Term) -> Shape:
    """Sizes of a term, symbolic ones as expressions. A literal has none."""
    if isinstance(term, fx.Node):
        value = term.meta.get("val")
        return tuple(size_expression(s) for s in value.shape) if isinstance(value, torch.Tensor) else ()
    return () if isinstance(term, Literal) else term.shape


def broadcast(shapes: Iterable[Sequence[Extent]]) -> Shape:
    """The common shape of operands that are known to fit."""
    shapes = list(shapes)
    rank = max((len(s) for s in shapes), default=0)
    padded = [(1,) * (rank - len(s)) + tuple(s) for s in shapes]
    return tuple(next((s for s in sizes if s != 1), 1) for sizes in zip(*padded, strict=True))


def scaled(scale: float, term: Term, shape: Shape | None = None) -> Term:
    """`scale * term`, without a product where the scale is one."""
    if scale == 1.0:
        return term
    if isinstance(term, Literal):
        return Literal(scale * term.value)
    if isinstance(term, Product):
        return simplified(Product(scale * term.literal, term.factors, term.shape))
    return Product(scale, ((term, 1.0),), shape_of(term) if shape is None else shape)


def simplified(product: Product) -> Term:
    """The factor itself where a product has one factor and nothing else; a literal where it has none."""
    if not product.factors:
        return Literal(product.literal)
    (factor, exponent), *more = product.factors
    return factor if not more and exponent == 1.0 and product.literal == 1.0 else product


def split(term: Term) -> tuple[float, Term]:
    """A term as its literal factor and the rest."""
    if isinstance(term, Product) and term.factors:
        return term.literal, simplified(Product(1.0, term.factors, term.shape))
    return 1.0, term


def is_close(a: float, b: float) -> bool:
    """Whether two literals stand for the same number."""
    return a == b or math.isclose(a, b, rel_tol=TOLERANCE)


def text(term: Term) -> str:
    """A term in one line, for remarks: `0.5 * %x * (1 + erf(%div))`."""
    if isinstance(term, fx.Node):
        return f"%{term.name}"
    if isinstance(term, Literal):
        return f"{term.value:.6g}"
    if isinstance(term, Call):
        return f"{term.kind}({', '.join(map(text, term.args))})"
    if isinstance(term, Sum):
        parts = [f"{term.literal:.6g}"] * (term.literal != 0) + [text(scaled(c, t)) for c, t in term.terms]
        return f"({' + '.join(parts)})"
    parts = [f"{term.literal:.6g}"] * (term.literal != 1) + [text(f) + (f"**{e:g}" if e != 1 else "") for f, e in term.factors]
    return " * ".join(parts)
