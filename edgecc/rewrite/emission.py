"""Emission: expressions and traced replacements as nodes of the program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from edgecc.ir.fake import size_expression
from edgecc.ir.program import Program
from edgecc.rewrite import permutation
from edgecc.rewrite.expression import Literal, Product, Shape, Sum, Term, shape_of
from edgecc.rewrite.pattern import trace_call

aten = torch.ops.aten


class NotEmittableError(Exception):
    """A term has no operator that computes it."""


def emit(program: Program, before: fx.Node, term: Term) -> fx.Node | float:
    """Nodes that compute a term, inserted before a node. Raises NotEmittableError."""
    if isinstance(term, fx.Node):
        return term
    if isinstance(term, Literal):
        return term.value
    if isinstance(term, Sum):
        return _emit_sum(program, before, term)
    if isinstance(term, Product):
        return multiply(program, before, term.factors, term.literal)
    source = emit(program, before, term.args[0])
    if not isinstance(source, fx.Node) or term.kind not in ("permute", "reshape"):
        raise NotEmittableError(f"{term.kind} is no node of the program")
    if term.kind == "permute":
        order = dict(term.attributes)["order"]
        return program.call_before(before, aten.permute.default, source, permutation.axes_of(order, len(term.shape)))
    return program.call_before(before, aten.reshape.default, source, _sizes(program, before, source, term.shape))


def multiply(program: Program, before: fx.Node, factors: Sequence[tuple[Term, float]], literal: float = 1.0) -> fx.Node:
    """`literal * f1**e1 * f2**e2 * ...` from left to right. Raises NotEmittableError for exponents other than 1 and -1 and for no factor."""
    result: fx.Node | None = None
    for term, exponent in sorted(factors, key=lambda f: -f[1]):
        factor = emit(program, before, term)
        if abs(exponent) != 1 or not isinstance(factor, fx.Node) or (result is None and exponent < 0):
            raise NotEmittableError(f"a power of {exponent:g} is left over")
        operator = aten.mul.Tensor if exponent > 0 else aten.div.Tensor
        result = factor if result is None else program.call_before(before, operator, result, factor)
    if result is None:
        raise NotEmittableError("nothing but a number is left")
    return result if literal == 1.0 else program.call_before(before, aten.mul.Tensor, result, literal)


def add(program: Program, before: fx.Node, start: fx.Node | None, terms: Sequence[tuple[float, Term]], literal: float = 0.0) -> fx.Node:
    """`start + c1 * t1 + ... + literal` from left to right. Raises NotEmittableError."""
    result = start
    for scale, term in terms:
        summand = emit(program, before, term)
        if not isinstance(summand, fx.Node):
            raise NotEmittableError("a number stands among the terms")
        if abs(scale) != 1 or (result is None and scale < 0):
            summand, scale = program.call_before(before, aten.mul.Tensor, summand, scale), 1.0
        operator = aten.add.Tensor if scale > 0 else aten.sub.Tensor
        result = summand if result is None else program.call_before(before, operator, result, summand)
    if result is None:
        raise NotEmittableError("nothing but a number is left")
    return result if literal == 0.0 else program.call_before(before, aten.add.Tensor, result, literal)


def _emit_sum(program: Program, before: fx.Node, term: Sum) -> fx.Node:
    return add(program, before, None, sorted(term.terms, key=lambda t: t[0] < 0), term.literal)


def _sizes(program: Program, before: fx.Node, source: fx.Node, shape: Shape) -> list[Any]:
    """`shape` as arguments of a reshape: symbolic sizes are read off the source, one that is not there is -1."""
    found = shape_of(source)
    sizes: list[Any] = []
    for size in shape:
        if isinstance(size, int):
            sizes.append(size)
        elif size in found:
            sizes.append(program.call_before(before, aten.sym_size.int, source, found.index(size)))
        else:
            sizes.append(-1)
    if sizes.count(-1) > 1:
        raise NotEmittableError(f"the sizes of [{', '.join(map(str, shape))}] are not known from %{source.name}")
    return sizes


class Replacements:
    """Replacement functions, traced once for each combination of shapes, dtypes and numbers."""

    def __init__(self) -> None:
        self._traced: dict[Any, fx.GraphModule] = {}

    def emit(self, program: Program, before: fx.Node, function: Callable[..., Any], arguments: dict[str, fx.Node | float]) -> fx.Node:
        """Splice `function(**arguments)` in before a node: tensors as nodes, numbers as they are."""
        names = [name for name, value in arguments.items() if isinstance(value, fx.Node)]
        numbers = {name: value for name, value in arguments.items() if not isinstance(value, fx.Node)}
        nodes = [value for value in arguments.values() if isinstance(value, fx.Node)]
        key = (function, tuple(_signature(n) for n in nodes), tuple(numbers.items()))
        module = self._traced.get(key)
        if module is None:
            module = trace_call(
                lambda *tensors: function(**dict(zip(names, tensors, strict=True)), **numbers), [n.meta["val"] for n in nodes]
            )
            self._traced[key] = module
        return _splice(program, before, module, nodes)


def _signature(node: fx.Node) -> tuple[Any, ...]:
    value = node.meta["val"]
    return tuple(str(size_expression(s)) for s in value.shape), value.dtype, value.device


def _splice(program: Program, before: fx.Node, module: fx.GraphModule, nodes: Sequence[fx.Node]) -> fx.Node:
    values: dict[fx.Node, Any] = dict(zip((n for n in module.graph.nodes if n.op == "placeholder"), nodes, strict=True))
    for inner in module.graph.nodes:
        if inner.op == "get_attr":
            values[inner] = program.add_weight(str(inner.target), getattr(module, str(inner.target)), before)
        elif inner.op == "call_function":
            args, kwargs = fx.node.map_arg((inner.args, inner.kwargs), lambda n: values[n])
            values[inner] = program.call_before(before, inner.target, *args, **kwargs)
    result = module.graph.output_node().args[0]
    assert isinstance(result, fx.Node), "a replacement returns one tensor"
    program.erase_dead([v for v in values.values() if v is not values[result] and isinstance(v, fx.Node)])
    new = values[result]
    assert isinstance(new, fx.Node)
    return new
