"""Near misses: the furthest failed attempt to match, and the words that its reason is put in."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from edgecc.rewrite.expression import Call, Literal, Product, Sum, Term, text
from edgecc.rewrite.pattern import Pattern


@dataclass(frozen=True)
class NearMiss:
    """The furthest failed attempt: how many of the pattern's expressions agreed, and the first difference.

    `refused` where all of them did, and something else was in the way. `structural` where another operator was found,
    not just another number or axis.
    """

    matched: int
    reason: str
    node: fx.Node
    refused: bool = False
    structural: bool = False

    def is_near(self, size: int) -> bool:
        """Whether so much of a pattern of this size was found that a person would call it the same formula."""
        return self.refused or (3 * self.matched > 2 * size if self.structural else 2 * self.matched >= size - 1)

    def is_further_than(self, other: NearMiss | None) -> bool:
        """Whether this says more. A later refusal wins over an earlier one: rules go from special to general."""
        return other is None or (self.refused, self.matched + self.refused) > (other.refused, other.matched)


def described(term: Term, pattern: Pattern) -> str:
    """A term of a pattern in words: the parameter's name, or what kind of expression it is."""
    if isinstance(term, fx.Node) and term in pattern.parameters:
        return pattern.parameters[term]
    return kind_of(pattern.form.open(term)[0])


def kind_of(term: Term) -> str:
    """What kind of expression a term is, in a word."""
    if isinstance(term, Call):
        return term.kind
    if isinstance(term, Product) and len(term.factors) == 1 and term.literal == 1:
        exponent = term.factors[0][1]
        return {0.5: "a square root", -0.5: "a reciprocal root", -1.0: "a reciprocal", 2.0: "a square"}.get(
            exponent, f"a power of {exponent:g}"
        )
    return {Sum: "a sum", Product: "a product", Literal: "a number"}.get(type(term), text(term))


def value_text(value: object) -> str:
    """An attribute of a call: numbers to six digits, tuples without parentheses."""
    return ", ".join(map(value_text, value)) if isinstance(value, tuple) else f"{value:.6g}" if isinstance(value, float) else str(value)
