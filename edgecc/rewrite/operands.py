"""Operands: match sums and products of a pattern with those of a program, in any order and up to a factor.

The operands of the pattern are tried one after another on all that is left in the program, large ones first because
they fail fast, and a parameter that nothing is bound to yet last, because it takes what is left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

from torch import fx

from edgecc.rewrite.expression import Product, Sum, Term, broadcast, is_close, scaled, shape_of, text
from edgecc.rewrite.near_miss import described
from edgecc.rewrite.pattern import Pattern
from edgecc.rewrite.state import Rest, State

Factor = tuple[Term, float]
Summand = tuple[float, Term]
Operand = TypeVar("Operand", Factor, Summand)


class Search(Protocol):
    """What matches the operands themselves, and remembers where that failed."""

    pattern: Pattern

    def term(self, want: Term, found: Term, state: State, place: str) -> Iterator[tuple[State, float]]: ...

    def bind_literal(self, name: str, value: float, state: State) -> State | None: ...

    def fail(self, state: State, reason: str, *, weak: bool = False, structural: bool = False) -> None: ...


@dataclass(frozen=True)
class Operands:
    """Matches operands; `place` names the sum or product in reasons. `partial`: operands of the program may be left over."""

    search: Search
    place: str
    partial: bool = False

    def product(self, want: Product, found: Product, state: State) -> Iterator[tuple[State, float, Rest]]:
        """States with the factor by which `found` is `want`, and the factors left over where the match may be `partial`."""
        wanted = sorted(want.factors, key=lambda f: -self.search.pattern.weight(f[0]))
        for after, literal, left in self._factors(wanted, found.factors, state, found.literal):
            name = self.search.pattern.wildcard(want.literal)
            if name is None:
                yield after, literal / want.literal, Rest(1.0, factors=left)
                continue
            bound = self.search.bind_literal(name, literal, after)
            if bound is not None:
                yield bound, 1.0, Rest(1.0, factors=left)

    def _factors(
        self, wanted: list[Factor], left: tuple[Factor, ...], state: State, literal: float
    ) -> Iterator[tuple[State, float, tuple[Factor, ...]]]:
        if not wanted:
            if not left or self.partial:
                yield state, literal, left
            else:
                self.search.fail(state, f"{self.place} has another factor {text(left[0][0])}")
            return
        wanted = self._bound_first(wanted, state, lambda w: w[0])
        (term, exponent), *others = wanted
        if not left and not self.partial:
            self.search.fail(state, f"{self.place} lacks the factor {described(term, self.search.pattern)}", structural=True)
        free = not others and self._is_free(term, state)
        if free and not self.partial and len(left) > 1:
            rest = tuple((t, e / exponent) for t, e in left)
            if exponent == 1.0:
                yield from self._one_factor(Product(1.0, rest, broadcast(shape_of(t) for t, _ in rest)), wanted, (), state, literal)
            return
        for i, (candidate, found_exponent) in enumerate(left):
            if found_exponent == exponent:
                yield from self._one_factor(candidate, wanted, left[:i] + left[i + 1 :], state, literal)
            elif not free:
                self.search.fail(state, f"{text(candidate)} has exponent {found_exponent:g}, want {exponent:g}", weak=True)

    def _one_factor(
        self, candidate: Term, wanted: list[Factor], left: tuple[Factor, ...], state: State, literal: float
    ) -> Iterator[tuple[State, float, tuple[Factor, ...]]]:
        (term, exponent), *others = wanted
        for after, scale in self.search.term(term, candidate, state, self._place_of("factor")):
            if scale > 0 or (scale < 0 and exponent == int(exponent)):
                yield from self._factors(others, left, after, literal * math.pow(scale, exponent))

    def sum(self, want: Sum, found: Sum, state: State) -> Iterator[tuple[State, float, Rest]]:
        """States with the factor by which `found` is `want`, and the terms left over where the match may be `partial`."""
        wanted = sorted(want.terms, key=lambda t: (self.search.pattern.wildcard(t[0]) is not None, -self.search.pattern.weight(t[1])))
        for after, scale, left in self._terms(wanted, found.terms, state, None):
            factor = scale if scale is not None else 1.0
            if scale is None and found.literal and want.literal and self.search.pattern.wildcard(want.literal) is None and not self.partial:
                factor = found.literal / want.literal
            literal = found.literal / factor
            name = self.search.pattern.wildcard(want.literal)
            if name is not None:
                bound = self.search.bind_literal(name, literal, after)
                if bound is not None:
                    yield bound, factor, Rest(0.0, terms=left)
            elif self.partial:
                yield after, factor, Rest(literal - want.literal, terms=left)
            elif is_close(literal, want.literal):
                yield after, factor, Rest(0.0, terms=left)
            else:
                self.search.fail(after, f"{self.place} adds {literal:.6g}, want {want.literal:.6g}")

    def _terms(
        self, wanted: list[Summand], left: tuple[Summand, ...], state: State, scale: float | None
    ) -> Iterator[tuple[State, float | None, tuple[Summand, ...]]]:
        """`scale`: by which factor the program's sum is the pattern's, as far as known."""
        if not wanted:
            if not left or self.partial:
                yield state, scale, left
            else:
                self.search.fail(state, f"{self.place} adds {text(left[0][1])} as well")
            return
        wanted = self._bound_first(wanted, state, lambda w: w[1])
        (coefficient, term), *others = wanted
        if not left and not self.partial:
            self.search.fail(state, f"{self.place} lacks {described(term, self.search.pattern)}", structural=True)
        if not others and self._is_free(term, state) and not self.partial and len(left) > 1:
            factor = (scale or 1.0) * coefficient
            rest = tuple((c / factor, t) for c, t in left)
            for after, _ in self.search.term(term, Sum(0.0, rest, broadcast(shape_of(t) for _, t in rest)), state, self.place):
                yield after, scale, ()
            return
        for i, (found, candidate) in enumerate(left):
            others_left = left[:i] + left[i + 1 :]
            if self._is_free(term, state):
                factor = (scale or 1.0) * coefficient
                for after, _ in self.search.term(term, scaled(found / factor, candidate), state, self.place):
                    yield from self._terms(others, others_left, after, scale)
                continue
            for after, inner in self.search.term(term, candidate, state, self._place_of("term")):
                name = self.search.pattern.wildcard(coefficient)
                if name is not None:
                    bound = self.search.bind_literal(name, found * inner / (scale or 1.0), after)
                    if bound is not None:
                        yield from self._terms(others, others_left, bound, scale or 1.0)
                    continue
                ratio = found * inner / coefficient
                if ratio != 0 and (scale is None or is_close(scale, ratio)) and (not self.partial or is_close(ratio, 1.0)):
                    yield from self._terms(others, others_left, after, ratio if scale is None else scale)
                else:
                    want = coefficient * (scale or 1.0)
                    self.search.fail(after, f"a term of {self.place} is scaled by {found * inner:.6g}, want {want:.6g}")

    def _place_of(self, kind: str) -> str:
        return f"a {kind}" if self.place == "the result" else f"a {kind} of {self.place}"

    def _is_free(self, term: Term, state: State) -> bool:
        """Whether the term is a parameter that nothing is bound to yet."""
        return isinstance(term, fx.Node) and self.search.pattern.parameters.get(term, "") not in ("", *state.bindings)

    def _bound_first(self, wanted: list[Operand], state: State, term_of: Callable[[Operand], Term]) -> list[Operand]:
        return sorted(wanted, key=lambda w: self._is_free(term_of(w), state))
