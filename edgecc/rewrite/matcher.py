"""Matcher: find a pattern in a normal form, sums and products in any order, and say why where it is nearly there.

A match is built by backtracking. Every step yields the states that are possible so far and by which factor the
program's term is the pattern's, because `0.5 + 0.5 * y` is `0.5 * (1 + y)`; a product collects those factors and
compares them with its own literal at the end.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import sympy
from torch import fx

from edgecc.rewrite import permutation
from edgecc.rewrite.expression import Call, Expression, Literal, Product, Shape, Size, Sum, Term, broadcast, scaled, shape_of, split, text
from edgecc.rewrite.normal_form import NormalForm
from edgecc.rewrite.pattern import Pattern
from edgecc.rewrite.shapes import permuted

TOLERANCE = 1e-6  # of literals, relative: float32 constants carry 6e-8, a spelled-out sqrt(2/pi) ten digits
STEPS = 2000  # of backtracking for one root; patterns here need tens

Binding = Term | float


@dataclass(frozen=True)
class State:
    """A match so far: what the parameters stand for, the nodes it covers, and shapes that have to agree.

    `here` is the node looked at last; `anchor` the first one that is a call of the pattern, which a near miss is told about.
    """

    bindings: Mapping[str, Binding] = field(default_factory=dict)
    nodes: frozenset[fx.Node] = frozenset()
    shapes: tuple[tuple[Shape, Shape], ...] = ()
    matched: int = 0
    here: fx.Node | None = None
    anchor: fx.Node | None = None

    def bind(self, name: str, value: Binding) -> State:
        return replace(self, bindings={**self.bindings, name: value})


@dataclass(frozen=True)
class Rest:
    """What the root computes besides the pattern: `literal * factors` or `literal + terms`, its axes permuted at last."""

    literal: float
    terms: tuple[tuple[float, Term], ...] = ()
    factors: tuple[tuple[Term, float], ...] = ()
    order: permutation.Order = ()
    is_empty: bool = field(init=False, default=True)

    def __post_init__(self) -> None:
        neutral = self.literal in (0.0, 1.0)
        object.__setattr__(self, "is_empty", neutral and not self.terms and not self.factors)


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


class Matcher:
    """Matches one pattern against one program."""

    def __init__(self, pattern: Pattern, form: NormalForm) -> None:
        self.pattern, self.form = pattern, form
        self.near: NearMiss | None = None
        self._root: fx.Node | None = None
        self._steps = 0

    def match(self, root: fx.Node) -> Iterator[tuple[State, Rest]]:
        """Every way to read `root` as the pattern, with something left over at the root."""
        self.near, self._root, self._steps = None, root, 0
        want, view = self.pattern.root, self.form.view(root)  # again: an earlier rewrite may have changed it
        start = State(nodes=view.absorbed | {root}, here=root)
        found = view.term
        if isinstance(want, Sum) and isinstance(found, Sum):
            for state, scale, rest in self._sum(want, found, self._entered(start, root, want), "the result", partial=True):
                if scale == 1.0 and self._shapes_agree(state):
                    yield state, rest
        elif isinstance(want, Product) and isinstance(found, Product):
            for state, scale, rest in self._product(want, found, self._entered(start, root, want), "the result", partial=True):
                if self._shapes_agree(state):
                    yield state, replace(rest, literal=scale)
        elif isinstance(want, Call):
            literal, call = split(found)
            call, order = _unpermuted(call)
            for state, scale in self._expression(want, call, start, "the result", root):
                if self._shapes_agree(state):
                    yield state, Rest(scale * literal, order=order)

    def refuse(self, state: State, reason: str) -> None:
        """Record a reason that a complete match was refused for."""
        if state.anchor is not None:
            self.near = NearMiss(state.matched, reason, state.anchor, refused=True)

    # -- terms

    def _term(self, want: Term, found: Term, state: State, place: str) -> Iterator[tuple[State, float]]:
        """Match a term of the pattern; yield states with the factor by which `found` is `want`."""
        self._steps += 1
        if self._steps > STEPS:
            return
        if isinstance(want, fx.Node) and want in self.pattern.parameters:
            yield from self._parameter(self.pattern.parameters[want], found, state)
            return
        expression, _ = self.pattern.form.open(want)
        if isinstance(expression, fx.Node):
            raise AssertionError(f"{expression} of a pattern is neither a parameter nor a call")
        opened, nodes = self.form.open(found)
        inner = replace(state, nodes=state.nodes | nodes, here=found if isinstance(found, fx.Node) else state.here)
        yield from self._expression(expression, opened, inner, place, found if isinstance(found, fx.Node) else None)

    def _expression(self, want: Expression, found: Term, state: State, place: str, node: fx.Node | None) -> Iterator[tuple[State, float]]:
        if isinstance(want, Call) and want.kind == "permute":
            literal, rest = split(found)
            order = permutation.inverse(dict(want.attributes)["order"])
            if len(shape_of(rest)) >= len(order):
                is_moved = isinstance(rest, Call) and rest.kind == "permute"
                source = node if node is not None and literal == 1.0 and not is_moved else rest
                for after, scale in self._term(want.args[0], permuted(source, order), self._entered(state, node, want), place):
                    yield after, scale * literal
        elif isinstance(want, Product):
            product = found if isinstance(found, Product) else Product(1.0, ((_source(found, node), 1.0),), shape_of(found))
            entered = self._entered(state, node, want) if isinstance(found, Product) else state
            for after, scale, _ in self._product(want, product, entered, place):
                yield after, scale
        elif isinstance(found, Product) and len(found.factors) == 1 and found.factors[0][1] == 1.0:
            for after, scale in self._term_of_expression(want, found.factors[0][0], state, place):
                yield after, scale * found.literal
        elif isinstance(want, Sum) and isinstance(found, Sum):
            for after, scale, _ in self._sum(want, found, self._entered(state, node, want), place):
                yield after, scale
        elif isinstance(want, Sum) and len(want.terms) == 1 and self.pattern.wildcard(want.literal) is not None:
            alone = Sum(0.0, ((1.0, _source(found, node)),), shape_of(found))
            for after, scale, _ in self._sum(want, alone, state, place):
                yield after, scale
        elif isinstance(want, Call) and isinstance(found, Call):
            yield from self._call(want, found, state, place, node)
        elif isinstance(want, Literal) and isinstance(found, Literal):
            yield from self._literal(want, found, state, place)
        else:
            self._fail(state, f"{place} is {_name(found)}, want {_name(want)}", structural=True)

    def _term_of_expression(self, want: Expression, found: Term, state: State, place: str) -> Iterator[tuple[State, float]]:
        opened, nodes = self.form.open(found)
        inner = replace(state, nodes=state.nodes | nodes, here=found if isinstance(found, fx.Node) else state.here)
        yield from self._expression(want, opened, inner, place, found if isinstance(found, fx.Node) else None)

    def _exactly(self, want: Term, found: Term, state: State, place: str) -> Iterator[State]:
        for after, scale in self._term(want, found, state, place):
            if _close(scale, 1.0):
                yield after
            else:
                literal = split(self.pattern.form.open(want)[0])[0]
                self._fail(after, f"{place} is scaled by {scale * literal:.6g}, want {literal:.6g}")

    def _parameter(self, name: str, found: Term, state: State) -> Iterator[tuple[State, float]]:
        bound = state.bindings.get(name)
        if bound is None:
            if isinstance(found, Literal):
                self._fail(state, f"{name} is the number {found.value:.6g}, want a tensor")
            else:
                yield state.bind(name, found), 1.0
            return
        assert not isinstance(bound, float)
        if self._same(bound, found, depth=3):
            yield state.bind(name, found if isinstance(found, fx.Node) else bound), 1.0
            return
        multiple = split(self._opened(bound))[1] in (found, split(self._opened(found))[1]) or split(self._opened(found))[1] == bound
        self._fail(state, f"{name} is {text(bound)} in one place and {text(found)} in another", weak=not multiple)

    def _same(self, a: Term, b: Term, depth: int) -> bool:
        """Whether two terms are the same value: the same node, or `x - mean(x)` once as nodes and once inside of `var(x)`."""
        if a == b or depth == 0 or (isinstance(a, fx.Node) and isinstance(b, fx.Node)):
            return a == b
        a, b = self.form.open(a)[0], self.form.open(b)[0]
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
        return constant and len(left) == len(right) and all(c == d and self._same(t, u, depth - 1) for (c, t), (d, u) in pairs)

    def _opened(self, term: Term) -> Term:
        opened, _ = self.form.open(term)
        return opened if isinstance(opened, Product) else term

    def _literal(self, want: Literal, found: Literal, state: State, place: str) -> Iterator[tuple[State, float]]:
        name = self.pattern.wildcard(want.value)
        if name is not None:
            after = self._bind_literal(name, found.value, state)
            if after is not None:
                yield after, 1.0
        elif _close(want.value, found.value):
            yield state, 1.0
        else:
            self._fail(state, f"{place} is {found.value:.6g}, want {want.value:.6g}")

    def _bind_literal(self, name: str, value: float, state: State) -> State | None:
        bound = state.bindings.get(name)
        if bound is None:
            return state.bind(name, value)
        assert isinstance(bound, float)
        if _close(bound, value):
            return state
        self._fail(state, f"{name} is {bound:.6g} in one place and {value:.6g} in another")
        return None

    # -- calls

    def _call(self, want: Call, found: Call, state: State, place: str, node: fx.Node | None) -> Iterator[tuple[State, float]]:
        if want.kind != found.kind or len(want.args) != len(found.args):
            self._fail(state, f"{place} is {_name(found)}, want {_name(want)}", structural=True)
            return
        different = [(k, w, f) for (k, w), (_, f) in zip(want.attributes, found.attributes, strict=True) if not _equal(w, f)]
        entered = self._entered(state, node, want)
        if different:
            key, wanted, value = different[0]
            self._fail(entered, f"{_name(want)} has {key} {_value(value)}, want {_value(wanted)}")
            return
        if want.kind in ("reshape", "expand"):
            pair = (shape_of(want.args[0]), shape_of(found.args[0]))
            entered = replace(entered, shapes=(*entered.shapes, pair, (want.shape, found.shape)))
        for after in self._arguments(want, found, 0, entered):
            yield after, 1.0

    def _arguments(self, want: Call, found: Call, index: int, state: State) -> Iterator[State]:
        if index == len(want.args):
            yield state
            return
        place = f"the argument of {want.kind}" if len(want.args) == 1 else f"argument {index + 1} of {want.kind}"
        for after in self._exactly(want.args[index], found.args[index], state, place):
            yield from self._arguments(want, found, index + 1, after)

    # -- sums and products

    def _product(
        self, want: Product, found: Product, state: State, place: str, *, partial: bool = False
    ) -> Iterator[tuple[State, float, Rest]]:
        wanted = sorted(want.factors, key=lambda f: -self.pattern.weight(f[0]))
        for after, literal, left in self._factors(wanted, found.factors, state, found.literal, place, partial=partial):
            name = self.pattern.wildcard(want.literal)
            if name is None:
                yield after, literal / want.literal, Rest(1.0, factors=left)
                continue
            bound = self._bind_literal(name, literal, after)
            if bound is not None:
                yield bound, 1.0, Rest(1.0, factors=left)

    def _factors(
        self,
        wanted: list[tuple[Term, float]],
        left: tuple[tuple[Term, float], ...],
        state: State,
        literal: float,
        place: str,
        *,
        partial: bool,
    ) -> Iterator[tuple[State, float, tuple[tuple[Term, float], ...]]]:
        if not wanted:
            if not left or partial:
                yield state, literal, left
            else:
                self._fail(state, f"{place} has another factor {text(left[0][0])}")
            return
        wanted = self._bound_first(wanted, state, lambda w: w[0])
        (term, exponent), *others = wanted
        if not left and not partial:
            self._fail(state, f"{place} lacks the factor {self._describe(term)}", structural=True)
        free = not others and self._is_free(term, state)
        if free and not partial and len(left) > 1:
            rest = tuple((t, e / exponent) for t, e in left)
            if exponent == 1.0:
                yield from self._one_factor(
                    Product(1.0, rest, broadcast(shape_of(t) for t, _ in rest)), term, 1.0, [], (), state, literal, place, partial
                )
            return
        for i, (candidate, found_exponent) in enumerate(left):
            if found_exponent == exponent:
                yield from self._one_factor(candidate, term, exponent, others, left[:i] + left[i + 1 :], state, literal, place, partial)
            elif not free:
                self._fail(state, f"{text(candidate)} has exponent {found_exponent:g}, want {exponent:g}", weak=True)

    def _one_factor(
        self,
        candidate: Term,
        term: Term,
        exponent: float,
        others: list[tuple[Term, float]],
        left: tuple[tuple[Term, float], ...],
        state: State,
        literal: float,
        place: str,
        partial: bool,
    ) -> Iterator[tuple[State, float, tuple[tuple[Term, float], ...]]]:
        for after, scale in self._term(term, candidate, state, f"a factor of {place}" if place != "the result" else "a factor"):
            if scale > 0 or (scale < 0 and exponent == int(exponent)):
                yield from self._factors(others, left, after, literal * math.pow(scale, exponent), place, partial=partial)

    def _sum(self, want: Sum, found: Sum, state: State, place: str, *, partial: bool = False) -> Iterator[tuple[State, float, Rest]]:
        wanted = sorted(want.terms, key=lambda t: (self.pattern.wildcard(t[0]) is not None, -self.pattern.weight(t[1])))
        for after, scale, left in self._terms(wanted, found.terms, state, None, place, partial=partial):
            factor = scale if scale is not None else 1.0
            if scale is None and found.literal and want.literal and self.pattern.wildcard(want.literal) is None and not partial:
                factor = found.literal / want.literal
            literal = found.literal / factor
            name = self.pattern.wildcard(want.literal)
            if name is not None:
                bound = self._bind_literal(name, literal, after)
                if bound is not None:
                    yield bound, factor, Rest(0.0, terms=left)
            elif partial:
                yield after, factor, Rest(literal - want.literal, terms=left)
            elif _close(literal, want.literal):
                yield after, factor, Rest(0.0, terms=left)
            else:
                self._fail(after, f"{place} adds {literal:.6g}, want {want.literal:.6g}")

    def _terms(
        self,
        wanted: list[tuple[float, Term]],
        left: tuple[tuple[float, Term], ...],
        state: State,
        scale: float | None,
        place: str,
        *,
        partial: bool,
    ) -> Iterator[tuple[State, float | None, tuple[tuple[float, Term], ...]]]:
        """`scale`: by which factor the program's sum is the pattern's, as far as known."""
        if not wanted:
            if not left or partial:
                yield state, scale, left
            else:
                self._fail(state, f"{place} adds {text(left[0][1])} as well")
            return
        wanted = self._bound_first(wanted, state, lambda w: w[1])
        (coefficient, term), *others = wanted
        if not left and not partial:
            self._fail(state, f"{place} lacks {self._describe(term)}", structural=True)
        if not others and self._is_free(term, state) and not partial and len(left) > 1:
            factor = (scale or 1.0) * coefficient
            rest = tuple((c / factor, t) for c, t in left)
            for after, _ in self._term(term, Sum(0.0, rest, broadcast(shape_of(t) for _, t in rest)), state, place):
                yield after, scale, ()
            return
        for i, (found, candidate) in enumerate(left):
            others_left = left[:i] + left[i + 1 :]
            if self._is_free(term, state):
                factor = (scale or 1.0) * coefficient
                for after, _ in self._term(term, scaled(found / factor, candidate), state, place):
                    yield from self._terms(others, others_left, after, scale, place, partial=partial)
                continue
            for after, inner in self._term(term, candidate, state, f"a term of {place}" if place != "the result" else "a term"):
                name = self.pattern.wildcard(coefficient)
                if name is not None:
                    bound = self._bind_literal(name, found * inner / (scale or 1.0), after)
                    if bound is not None:
                        yield from self._terms(others, others_left, bound, scale or 1.0, place, partial=partial)
                    continue
                ratio = found * inner / coefficient
                if ratio != 0 and (scale is None or _close(scale, ratio)) and (not partial or _close(ratio, 1.0)):
                    yield from self._terms(others, others_left, after, ratio if scale is None else scale, place, partial=partial)
                else:
                    want = coefficient * (scale or 1.0)
                    self._fail(after, f"a term of {place} is scaled by {found * inner:.6g}, want {want:.6g}")

    # -- order of search

    def _is_free(self, term: Term, state: State) -> bool:
        """Whether the term is a parameter that nothing is bound to yet: it takes what is left, so it comes last."""
        return isinstance(term, fx.Node) and self.pattern.parameters.get(term, "") not in ("", *state.bindings)

    def _bound_first(self, wanted: list, state: State, term_of) -> list:  # type: ignore[no-untyped-def, type-arg]
        return sorted(wanted, key=lambda w: self._is_free(term_of(w), state))

    # -- reasons

    def _entered(self, state: State, node: fx.Node | None, want: Expression) -> State:
        """The state after an expression of the right kind was found. The first call is what a near miss is told about."""
        anchor = (node or state.here) if state.anchor is None and isinstance(want, Call) else state.anchor
        return replace(state, matched=state.matched + 1, anchor=anchor)

    def _fail(self, state: State, reason: str, *, weak: bool = False, structural: bool = False) -> None:
        """Remember the furthest failure. A weak one tells something only in a large pattern."""
        if weak and self.pattern.size < 4:
            return
        if state.anchor is None:
            return
        near = NearMiss(state.matched, reason, state.anchor, structural=structural)
        if near.is_further_than(self.near):
            self.near = near

    def _describe(self, term: Term) -> str:
        if isinstance(term, fx.Node) and term in self.pattern.parameters:
            return self.pattern.parameters[term]
        return _name(self.pattern.form.open(term)[0])

    def _shapes_agree(self, state: State) -> bool:
        """Whether one choice of sizes fits all reshapes: every prime size of the pattern stands for one size."""
        sizes: dict[int, Size] = {}
        pairs = [(w, f) for want, found in state.shapes for w, f in zip(want, found, strict=False)]
        if any(len(want) != len(found) for want, found in state.shapes):
            self._fail(state, "a reshape has another number of axes")
            return False
        for want, found in pairs:
            if want != 1 and len(_primes(want)) == 1:
                sizes.setdefault(int(want), found)
        for want, found in pairs:
            primes = _primes(want)
            product = math.prod((sizes[p] for p in primes), start=sympy.Integer(1)) if all(p in sizes for p in primes) else None
            if product != found:
                self._fail(state, f"a reshape has size {found} where the other sizes ask for {product}")
                return False
        return True


def head(term: Term, form: NormalForm) -> str:
    """What a root is told apart by at one look-up: `sum`, `product`, or the kind of the call that it is a multiple of."""
    if isinstance(term, Sum):
        return "sum"
    factor = split(term)[1]
    call = _unpermuted(form.open(factor)[0] if isinstance(term, Product) else factor)[0]
    return call.kind if isinstance(call, Call) else "product"


def _unpermuted(term: Term) -> tuple[Term, permutation.Order]:
    """The call behind a permutation that is no node of its own, as `einsum` reads, and the order."""
    if isinstance(term, Call) and term.kind == "permute" and isinstance(term.args[0], Call):
        return term.args[0], dict(term.attributes)["order"]
    return term, ()


def _source(found: Term, node: fx.Node | None) -> Term:
    return node if node is not None else found


def _close(a: float, b: float) -> bool:
    return a == b or math.isclose(a, b, rel_tol=TOLERANCE)


def _equal(want: object, found: object) -> bool:
    if isinstance(want, float) and isinstance(found, (int, float)):
        return _close(want, float(found))
    return want == found


def _primes(size: Size) -> list[int]:
    return [p for p, count in sympy.factorint(int(size)).items() for _ in range(count)]


def _value(value: object) -> str:
    return ", ".join(map(_value, value)) if isinstance(value, tuple) else f"{value:.6g}" if isinstance(value, float) else str(value)


def _name(term: Term) -> str:
    """What kind of expression a term is, in a word."""
    if isinstance(term, Call):
        return term.kind
    if isinstance(term, Product) and len(term.factors) == 1 and term.literal == 1:
        exponent = term.factors[0][1]
        return {0.5: "a square root", -0.5: "a reciprocal root", -1.0: "a reciprocal", 2.0: "a square"}.get(
            exponent, f"a power of {exponent:g}"
        )
    return {Sum: "a sum", Product: "a product", Literal: "a number"}.get(type(term), text(term))
