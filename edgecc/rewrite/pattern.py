"""Pattern: a plain PyTorch function read as an expression, whose parameters stand for anything."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx

from edgecc.errors import UsageError
from edgecc.rewrite.expression import Call, Literal, Product, Sum, Term
from edgecc.rewrite.normal_form import NormalForm, kinds_of
from edgecc.rewrite.transparent import resolved

Examples = Mapping[str, Sequence[int] | torch.Tensor]
SHAPE = (2, 3, 8)


@dataclass(frozen=True)
class Parameters:
    """The parameters of a pattern: tensors, and literal wildcards with the sentinel that marks them in the trace."""

    tensors: tuple[str, ...]
    literals: Mapping[str, float]


@dataclass(frozen=True)
class Pattern:
    """A traced pattern. `parameters` names its placeholders; `size` counts its expressions; `kinds` its calls."""

    form: NormalForm
    root: Sum | Product | Call
    parameters: Mapping[fx.Node, str]
    sentinels: Mapping[float, str]
    weights: Mapping[Term, int]
    size: int
    kinds: frozenset[str]

    def wildcard(self, value: float) -> str | None:
        """The literal parameter that a number in the pattern stands for."""
        return self.sentinels.get(value)

    def weight(self, term: Term) -> int:
        """How many expressions are in a term: large ones are matched first, they fail fast."""
        return self.weights.get(term, 0)


def parameters_of(function: Callable[..., Any]) -> Parameters:
    """Read the signature: a parameter with a float default is a literal wildcard. Raises UsageError for other defaults."""
    tensors, literals = [], {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.default is inspect.Parameter.empty:
            tensors.append(name)
        elif isinstance(parameter.default, float):
            literals[name] = parameter.default
        else:
            raise UsageError(f"parameter {name!r} of a pattern has the default {parameter.default!r}, want a float that marks a literal")
    return Parameters(tuple(tensors), literals)


def trace_call(function: Callable[..., Any], inputs: Sequence[Any]) -> fx.GraphModule:
    """Trace a function of tensors before decomposition, so that composite operators such as layer_norm stay whole."""
    with torch.no_grad():
        traced: fx.GraphModule = make_fx(lambda *a: function(*a), pre_dispatch=True, tracing_mode="real")(*inputs)
    return traced


def compile_pattern(function: Callable[..., Any], examples: Examples) -> Pattern:
    """Trace a pattern at example inputs: by name a tensor or a shape, `SHAPE` where none is given.

    Sizes that a pattern reshapes are distinct primes, so that every size of the program is found again.
    Raises UsageError for a pattern that is one operator or loses a literal wildcard.
    """
    return _compile(function, tuple((k, v if isinstance(v, torch.Tensor) else tuple(v)) for k, v in examples.items()))


@lru_cache(maxsize=512)
def _compile(function: Callable[..., Any], examples: tuple[tuple[str, Any], ...]) -> Pattern:
    given = dict(examples)
    parameters = parameters_of(function)
    inputs = [_example(given.get(name, SHAPE)) for name in parameters.tensors]
    module = trace_call(lambda *a: function(*a, **parameters.literals), inputs)
    form = NormalForm(lambda node: getattr(module, str(node.target)))
    result = module.graph.output_node().args[0]
    assert isinstance(result, fx.Node)
    root = form.view(resolved(result)).term
    if not isinstance(root, (Sum, Product, Call)):
        raise UsageError(f"the pattern {getattr(function, '__name__', function)} computes nothing")
    placeholders = [n for n in module.graph.nodes if n.op == "placeholder"]
    names = dict(zip(placeholders, parameters.tensors, strict=True))
    weights: dict[Term, int] = {}
    size = _weigh(root, form, names, weights)
    sentinels = {value: name for name, value in parameters.literals.items()}
    kinds = set().union(*(kinds_of(t) for t in [root, *(form.view(n).term for n in module.graph.nodes if n.op == "call_function")]))
    pattern = Pattern(form, root, names, sentinels, weights, size, frozenset(kinds - {"permute"}))
    lost = set(parameters.literals) - _literals(root, pattern)
    if lost:
        raise UsageError(f"the literal {lost.pop()!r} of a pattern is lost in its arithmetic: use it as a lone factor, summand or argument")
    return pattern


def _example(given: Any) -> torch.Tensor:
    return given if isinstance(given, torch.Tensor) else torch.ones(given)


def _children(term: Term, form: NormalForm) -> list[Term]:
    if isinstance(term, Call):
        return list(term.args)
    if isinstance(term, Sum):
        return [t for _, t in term.terms]
    return [f for f, _ in term.factors] if isinstance(term, Product) else []


def _weigh(term: Term, form: NormalForm, names: Mapping[fx.Node, str], weights: dict[Term, int]) -> int:
    if term in weights:
        return weights[term]
    opened = term if isinstance(term, fx.Node) and term in names else form.open(term)[0]
    own = 0 if isinstance(opened, (fx.Node, Literal)) else 1
    weights[term] = own + sum(_weigh(t, form, names, weights) for t in _children(opened, form))
    return weights[term]


def _literals(root: Term, pattern: Pattern) -> set[str]:
    """The literal wildcards that can be seen in the pattern."""
    found, pending = set[str | None](), [root]
    while pending:
        term = pending.pop()
        if term in pattern.parameters:
            continue
        term = pattern.form.open(term)[0]
        if isinstance(term, Literal):
            found.add(pattern.wildcard(term.value))
        if isinstance(term, (Sum, Product)):
            found.add(pattern.wildcard(term.literal))
        if isinstance(term, Sum):
            found |= {pattern.wildcard(c) for c, _ in term.terms}
        pending += _children(term, pattern.form)
    return {name for name in found if name is not None}
