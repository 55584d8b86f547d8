"""RewritePass: a fusion written as two PyTorch functions, what to find and what to put there."""

from __future__ import annotations

import inspect
from abc import ABC
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import fx

from edgecc.errors import UsageError
from edgecc.ir import provenance
from edgecc.ir.ops import operator_name
from edgecc.ir.program import Program
from edgecc.pipeline.base import Pass
from edgecc.pipeline.context import PassContext
from edgecc.rewrite.emission import NotEmittableError, Replacements, add, emit, multiply
from edgecc.rewrite.expression import Call, Product, Shape, Sum, Term, shape_of
from edgecc.rewrite.matcher import Matcher, head
from edgecc.rewrite.near_miss import NearMiss
from edgecc.rewrite.normal_form import NormalForm
from edgecc.rewrite.pattern import Examples, compile_pattern
from edgecc.rewrite.shapes import permuted
from edgecc.rewrite.state import Rest, State
from edgecc.rewrite.transparent import readers, resolved

aten = torch.ops.aten

ROUNDS = 8  # a replacement that holds its own pattern would never end; the fusions here settle after one

_FREE = {  # views: to compute one again costs nothing, so it may be used outside of a match
    aten.view, aten.reshape, aten._unsafe_view, aten.permute, aten.transpose, aten.mT, aten.t, aten.expand, aten.unsqueeze, aten.squeeze, aten.flatten, aten.unflatten,
}  # fmt: skip


@dataclass(frozen=True)
class Match:
    """Where a pattern was found. `match["x"]` is what the parameter stands for: a term, or a number for a literal.

    `scale` is the number by which the root is more than the pattern, as in `2 * x * sigmoid(x)`.
    """

    program: Program
    root: fx.Node
    bindings: Mapping[str, Term | float]
    scale: float = 1.0

    def __getitem__(self, name: str) -> Term | float:
        return self.bindings[name]

    def number(self, name: str) -> float:
        """The value of a literal wildcard."""
        value = self.bindings[name]
        assert isinstance(value, float)
        return value

    def shape(self, name: str) -> Shape:
        """Sizes of a tensor parameter, symbolic ones as expressions."""
        value = self.bindings[name]
        assert not isinstance(value, float)
        return shape_of(value)

    def weight(self, name: str) -> torch.Tensor | None:
        """The tensor where the parameter stands for a weight of the program."""
        value = self.bindings[name]
        node = resolved(value) if isinstance(value, fx.Node) else None
        return self.program.weight(node) if node is not None and node.op == "get_attr" else None


Where = Callable[[Match], "str | None"]
Replacement = Callable[..., torch.Tensor]


def anywhere(match: Match) -> str | None:
    """No condition."""
    return None


@dataclass(frozen=True, eq=False)
class Rule:
    """One pattern and its replacement.

    `pattern` and `replacement` are functions with parameters of the same names; a parameter of the pattern with a float
    default is a literal wildcard, its default an unusual number that marks it. `where` returns the reason to refuse
    a match. `examples` gives shapes or tensors to trace the pattern at, by parameter. A rule without a replacement is a
    look-alike, which `where` tells apart: it only explains.
    """

    pattern: Callable[..., torch.Tensor]
    replacement: Replacement | None
    where: Where = anywhere
    examples: Examples = field(default_factory=dict)


@dataclass(frozen=True)
class RewritePass(Pass, ABC):
    """A pass that replaces a pattern wherever it is found.

    A subclass writes `pattern` and `replacement` as plain PyTorch (static) methods with the same parameters, or
    returns several from `rules()`, tried in order. `anchors` names operators of which a program holds at least one where
    any rule matches, so that other programs cost nothing. Any association, order and spelling that reads as the same
    expression matches. A value of the pattern's inside that is used outside is never recomputed: the match is refused.
    """

    examples: ClassVar[Examples] = {}
    anchors: ClassVar[frozenset[str]] = frozenset()

    def where(self, match: Match) -> str | None:
        """The reason to refuse a match, None to accept it."""
        return None

    def rules(self) -> Sequence[Rule]:
        pattern, replacement = getattr(self, "pattern", None), getattr(self, "replacement", None)
        if pattern is None or replacement is None:
            raise UsageError(f"{type(self).__name__} has no pattern and replacement, nor rules()")
        return [Rule(pattern, replacement, self.where, self.examples)]

    def run(self, program: Program, context: PassContext) -> int:
        replacements, total = Replacements(), 0
        for _ in range(ROUNDS):
            rewriter = _Rewriter(program, context, replacements)
            if self.anchors and self.anchors.isdisjoint(rewriter.form.kinds):
                return total
            count = sum(rewriter.apply(rule) for rule in self.rules())
            if count == 0:
                rewriter.report_near_misses()
                return total
            total += count
        return total


class _Rewriter:
    """One round over one program."""

    def __init__(self, program: Program, context: PassContext, replacements: Replacements) -> None:
        self.program, self.context, self.replacements = program, context, replacements
        self.form = NormalForm(program.weight)
        self.near: dict[fx.Node, NearMiss] = {}
        self.calls: dict[str, list[fx.Node]] = defaultdict(list)
        for node in program.graph.nodes:
            if node.op == "call_function":
                self.calls[head(self.form.view(node).term, self.form)].append(node)

    def apply(self, rule: Rule) -> int:
        """Apply a rule at every node in graph order, first where the root is the pattern itself, then where it is a multiple."""
        pattern = compile_pattern(rule.pattern, rule.examples)
        if not pattern.kinds <= self.form.kinds:
            return 0
        matcher = Matcher(pattern, self.form)
        multiples: list[fx.Node] = []
        count = sum(self._attempt(rule, matcher, node, multiples) for node in self.calls[head(pattern.root, pattern.form)])
        return count + sum(self._attempt(rule, matcher, node) for node in multiples)

    def _attempt(self, rule: Rule, matcher: Matcher, node: fx.Node, multiples: list[fx.Node] | None = None) -> bool:
        if node._erased:
            return False
        found = self._rewrite(rule, matcher, node, multiples)
        if not found:
            self._remember(matcher, rule)
        return found

    def _remember(self, matcher: Matcher, rule: Rule) -> None:
        """Keep a near miss: half of the pattern was found; of a look-alike, all."""
        near = matcher.near
        if near is None or not (near.refused if rule.replacement is None else near.is_near(matcher.pattern.size)):
            return
        if near.is_further_than(self.near.get(near.node)):
            self.near[near.node] = near

    def report_near_misses(self) -> None:
        """Remark the furthest attempt at every node that is still there."""
        for node, near in self.near.items():
            if not node._erased:
                self.context.missed(node, near.reason)

    def _rewrite(self, rule: Rule, matcher: Matcher, root: fx.Node, multiples: list[fx.Node] | None = None) -> bool:
        """Rewrite one root. A multiple of the pattern waits in `multiples`, because a later node may take the factor in."""
        for state, rest in matcher.match(root):
            if multiples is not None and not rest.is_empty:
                multiples.append(root)
                return False
            if _is_single(state):
                continue
            match = Match(self.program, root, state.bindings, 1.0 if isinstance(matcher.pattern.root, Sum) else rest.literal)
            reason = _outside_use(state, root) or rule.where(match)
            if reason is None and rule.replacement is not None:
                reason = self._replace(rule.replacement, match, state, rest)
            if reason is None:
                return True
            matcher.refuse(state, reason)
        return False

    def _replace(self, replacement: Replacement, match: Match, state: State, rest: Rest) -> str | None:
        """Put the replacement in place of the root; return why not, with the program as it was."""
        program, root = self.program, match.root
        last = root.prev
        try:
            new = self._with_rest(self._emit(replacement, match), root, rest)
        except NotEmittableError as error:
            self._undo(last, root)
            return str(error)
        if shape_of(new) != shape_of(root) or new.meta["val"].dtype != root.meta["val"].dtype:
            self._undo(last, root)
            return f"the replacement has shape {list(shape_of(new))}, want {list(shape_of(root))}"
        covered = sorted(n for n in state.nodes if n.op == "call_function")
        self.context.applied(root, f"{len(covered)} operators became {_operators(last, root)}")
        provenance.inherit(new, [root, *reversed(covered)])
        program.replace(root, new)
        self.form.forget([n for n in covered if n._erased], new.users)
        return None

    def _emit(self, replacement: Replacement, match: Match) -> fx.Node:
        names = inspect.signature(replacement).parameters
        arguments = {n: v if isinstance(v := match[n], float) else emit(self.program, match.root, v) for n in names}
        return self.replacements.emit(self.program, match.root, replacement, arguments)

    def _with_rest(self, core: fx.Node, root: fx.Node, rest: Rest) -> fx.Node:
        if isinstance(self.form.view(root).term, Sum):
            return add(self.program, root, core, rest.terms, rest.literal)
        product = multiply(self.program, root, [(core, 1.0), *rest.factors], rest.literal)
        moved = emit(self.program, root, permuted(product, rest.order))
        assert isinstance(moved, fx.Node)
        return moved

    def _undo(self, last: fx.Node, root: fx.Node) -> None:
        self.program.erase_dead(_between(last, root))


def _between(last: fx.Node, root: fx.Node) -> list[fx.Node]:
    """The nodes after `last` and before `root`, from the root backwards."""
    nodes = []
    node = root.prev
    while node is not last:
        nodes.append(node)
        node = node.prev
    return nodes


def _operators(last: fx.Node, root: fx.Node) -> str:
    """What was put in, views left out where there is more."""
    new = [n for n in reversed(_between(last, root)) if isinstance(n.meta["val"], torch.Tensor)]
    named = [n for n in new if n.target.overloadpacket not in _FREE] or new  # type: ignore[union-attr]
    return ", ".join(operator_name(n.target) for n in named)


def _outside_use(state: State, root: fx.Node) -> str | None:
    """Why a match is refused whose inner values are used elsewhere; what the parameters stand for may be."""
    bound = {n for value in state.bindings.values() if not isinstance(value, float) for n in _nodes_of(value)}
    for node in sorted(state.nodes - bound - {root}):
        if node.op != "call_function" or getattr(node.target, "overloadpacket", None) in _FREE:
            continue
        for user in readers(node):
            if user not in state.nodes:
                return f"%{node.name} is used outside the pattern by %{user.name}"
    return None


def _is_single(state: State) -> bool:
    """Whether one operator was matched, which is no fusion: `hardsigmoid` reads as its own formula."""
    return len({n for n in state.nodes if n.op == "call_function"}) < 2


def _nodes_of(term: Term) -> set[fx.Node]:
    if isinstance(term, fx.Node):
        return {term}
    if isinstance(term, Call):
        return set().union(*(_nodes_of(t) for t in term.args))
    if isinstance(term, Sum):
        return set().union(*(_nodes_of(t) for _, t in term.terms))
    return set().union(*(_nodes_of(t) for t, _ in term.factors)) if isinstance(term, Product) else set()
