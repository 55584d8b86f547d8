"""Matcher: find a pattern in a normal form, sums and products in any order, and say why where it is nearly there.

A match is built by backtracking. Every step yields the states that are possible so far and by which factor the
program's term is the pattern's, because `0.5 + 0.5 * y` is `0.5 * (1 + y)`; a product collects those factors and
compares them with its own literal at the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torch import fx

from edgecc.rewrite import permutation
from edgecc.rewrite.expression import Call, Expression, Literal, Product, Sum, Term, is_close, shape_of, split, text
from edgecc.rewrite.near_miss import NearMiss, kind_of, value_text
from edgecc.rewrite.normal_form import NormalForm
from edgecc.rewrite.operands import Operands
from edgecc.rewrite.pattern import Pattern
from edgecc.rewrite.shapes import permuted
from edgecc.rewrite.state import Rest, State, shape_conflict

STEPS = 2000  # of backtracking for one root; patterns here need tens


class Matcher:
    """Matches one pattern against one program."""

    def __init__(self, pattern: Pattern, form: NormalForm) -> None:
        self.pattern, self.form = pattern, form
        self.near: NearMiss | None = None
        self._steps = 0

    def match(self, root: fx.Node) -> Iterator[tuple[State, Rest]]:
        """Every way to read `root` as the pattern, with something left over at the root."""
        self.near, self._steps = None, 0
        want, view = self.pattern.root, self.form.view(root)  # again: an earlier rewrite may have changed it
        start = State(nodes=view.absorbed | {root}, here=root)
        found = view.term
        if isinstance(want, Sum) and isinstance(found, Sum):
            for state, scale, rest in Operands(self, "the result", partial=True).sum(want, found, self._entered(start, root, want)):
                if scale == 1.0 and self._shapes_agree(state):
                    yield state, rest
        elif isinstance(want, Product) and isinstance(found, Product):
            for state, scale, rest in Operands(self, "the result", partial=True).product(want, found, self._entered(start, root, want)):
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

    def term(self, want: Term, found: Term, state: State, place: str) -> Iterator[tuple[State, float]]:
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
        yield from self._term_of_expression(expression, found, state, place)

    def _expression(self, want: Expression, found: Term, state: State, place: str, node: fx.Node | None) -> Iterator[tuple[State, float]]:
        if isinstance(want, Call) and want.kind == "permute":
            literal, rest = split(found)
            order = permutation.inverse(dict(want.attributes)["order"])
            if len(shape_of(rest)) >= len(order):
                is_moved = isinstance(rest, Call) and rest.kind == "permute"
                source = node if node is not None and literal == 1.0 and not is_moved else rest
                for after, scale in self.term(want.args[0], permuted(source, order), self._entered(state, node, want), place):
                    yield after, scale * literal
        elif isinstance(want, Product):
            product = found if isinstance(found, Product) else Product(1.0, ((_source(found, node), 1.0),), shape_of(found))
            entered = self._entered(state, node, want) if isinstance(found, Product) else state
            for after, scale, _ in Operands(self, place).product(want, product, entered):
                yield after, scale
        elif isinstance(found, Product) and len(found.factors) == 1 and found.factors[0][1] == 1.0:
            for after, scale in self._term_of_expression(want, found.factors[0][0], state, place):
                yield after, scale * found.literal
        elif isinstance(want, Sum) and isinstance(found, Sum):
            for after, scale, _ in Operands(self, place).sum(want, found, self._entered(state, node, want)):
                yield after, scale
        elif isinstance(want, Sum) and len(want.terms) == 1 and self.pattern.wildcard(want.literal) is not None:
            alone = Sum(0.0, ((1.0, _source(found, node)),), shape_of(found))
            for after, scale, _ in Operands(self, place).sum(want, alone, state):
                yield after, scale
        elif isinstance(want, Call) and isinstance(found, Call):
            yield from self._call(want, found, state, place, node)
        elif isinstance(want, Literal) and isinstance(found, Literal):
            yield from self._literal(want, found, state, place)
        else:
            self.fail(state, f"{place} is {kind_of(found)}, want {kind_of(want)}", structural=True)

    def _term_of_expression(self, want: Expression, found: Term, state: State, place: str) -> Iterator[tuple[State, float]]:
        opened, nodes = self.form.open(found)
        inner = replace(state, nodes=state.nodes | nodes, here=found if isinstance(found, fx.Node) else state.here)
        yield from self._expression(want, opened, inner, place, found if isinstance(found, fx.Node) else None)

    def _exactly(self, want: Term, found: Term, state: State, place: str) -> Iterator[State]:
        for after, scale in self.term(want, found, state, place):
            if is_close(scale, 1.0):
                yield after
            else:
                literal = split(self.pattern.form.open(want)[0])[0]
                self.fail(after, f"{place} is scaled by {scale * literal:.6g}, want {literal:.6g}")

    def _parameter(self, name: str, found: Term, state: State) -> Iterator[tuple[State, float]]:
        bound = state.bindings.get(name)
        if bound is None:
            if isinstance(found, Literal):
                self.fail(state, f"{name} is the number {found.value:.6g}, want a tensor")
            else:
                yield state.bind(name, found), 1.0
            return
        assert not isinstance(bound, float)
        if self.form.same(bound, found, depth=3):
            yield state.bind(name, found if isinstance(found, fx.Node) else bound), 1.0
            return
        multiple = split(self._opened(bound))[1] in (found, split(self._opened(found))[1]) or split(self._opened(found))[1] == bound
        self.fail(state, f"{name} is {text(bound)} in one place and {text(found)} in another", weak=not multiple)

    def _opened(self, term: Term) -> Term:
        opened, _ = self.form.open(term)
        return opened if isinstance(opened, Product) else term

    def _literal(self, want: Literal, found: Literal, state: State, place: str) -> Iterator[tuple[State, float]]:
        name = self.pattern.wildcard(want.value)
        if name is not None:
            after = self.bind_literal(name, found.value, state)
            if after is not None:
                yield after, 1.0
        elif is_close(want.value, found.value):
            yield state, 1.0
        else:
            self.fail(state, f"{place} is {found.value:.6g}, want {want.value:.6g}")

    def bind_literal(self, name: str, value: float, state: State) -> State | None:
        """The state with a literal wildcard bound, None where it stands for another number already."""
        bound = state.bindings.get(name)
        if bound is None:
            return state.bind(name, value)
        assert isinstance(bound, float)
        if is_close(bound, value):
            return state
        self.fail(state, f"{name} is {bound:.6g} in one place and {value:.6g} in another")
        return None

    # -- calls

    def _call(self, want: Call, found: Call, state: State, place: str, node: fx.Node | None) -> Iterator[tuple[State, float]]:
        if want.kind != found.kind or len(want.args) != len(found.args):
            self.fail(state, f"{place} is {kind_of(found)}, want {kind_of(want)}", structural=True)
            return
        different = [(k, w, f) for (k, w), (_, f) in zip(want.attributes, found.attributes, strict=True) if not _equal(w, f)]
        entered = self._entered(state, node, want)
        if different:
            key, wanted, value = different[0]
            self.fail(entered, f"{kind_of(want)} has {key} {value_text(value)}, want {value_text(wanted)}")
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

    # -- reasons

    def _entered(self, state: State, node: fx.Node | None, want: Expression) -> State:
        """The state after an expression of the right kind was found. The first call is what a near miss is told about."""
        anchor = (node or state.here) if state.anchor is None and isinstance(want, Call) else state.anchor
        return replace(state, matched=state.matched + 1, anchor=anchor)

    def fail(self, state: State, reason: str, *, weak: bool = False, structural: bool = False) -> None:
        """Remember the furthest failure. A weak one tells something only in a large pattern."""
        if weak and self.pattern.size < 4:
            return
        if state.anchor is None:
            return
        near = NearMiss(state.matched, reason, state.anchor, structural=structural)
        if near.is_further_than(self.near):
            self.near = near

    def _shapes_agree(self, state: State) -> bool:
        conflict = shape_conflict(state.shapes)
        if conflict:
            self.fail(state, conflict)
        return conflict is None


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


def _equal(want: object, found: object) -> bool:
    if isinstance(want, float) and isinstance(found, (int, float)):
        return is_close(want, float(found))
    return want == found
