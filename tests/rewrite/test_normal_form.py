"""The normal form: different spellings read as one expression, and what differs stays different."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from edgecc.rewrite.expression import Term, text
from edgecc.rewrite.normal_form import NormalForm
from edgecc.testing import trace_function
from tests.rewrite.fusing import normal

X = normal(2, 3, 4, 5).abs() + 0.5
Function = Callable[[Tensor], Tensor]


def read(function: Function) -> str:
    """The result as text, with every node written out as what it computes down to the input."""
    program = trace_function(function, X)
    form = NormalForm(program.weight)

    def term(t: Term) -> str:
        opened, _ = form.open(t)
        return written(opened, term)

    return term(program.outputs()[0])


def written(opened: Term, inner: Callable[[Term], str]) -> str:
    from edgecc.rewrite.expression import Call, Product, Sum

    if isinstance(opened, Sum):
        terms = sorted(f"{c:.5g}*{inner(t)}" for c, t in opened.terms)
        return f"({' + '.join([f'{opened.literal:.5g}', *terms])})"
    if isinstance(opened, Product):
        factors = sorted(f"{inner(f)}^{e:.5g}" for f, e in opened.factors)
        return f"[{' '.join([f'{opened.literal:.5g}', *factors])}]"
    if isinstance(opened, Call):
        return f"{opened.kind}({', '.join(map(inner, opened.args))}; {opened.attributes})"
    return text(opened)


SAME: dict[str, tuple[Function, Function]] = {
    "reciprocal root": (lambda x: x / torch.sqrt(x.exp() + 1), lambda x: x * torch.rsqrt(x.exp() + 1)),
    "power of -1/2": (lambda x: x / torch.sqrt(x.exp() + 1), lambda x: x * (x.exp() + 1) ** -0.5),
    "one over": (lambda x: x / torch.sqrt(x.exp() + 1), lambda x: (1 / (x.exp() + 1).sqrt()) * x),
    "square": (lambda x: x * x, lambda x: x**2),
    "torch.square": (lambda x: x.square(), lambda x: x * x),
    "association": (lambda x: 2 * (x * (x.exp() * 3)), lambda x: (x * 6) * x.exp()),
    "negation": (lambda x: 1 - x, lambda x: -x + 1),
    "rsub": (lambda x: torch.rsub(x, 1), lambda x: 1 - x),
    "variance": (lambda x: x.var(-1, unbiased=False, keepdim=True), lambda x: ((x - x.mean(-1, keepdim=True)) ** 2).mean(-1, keepdim=True)),
    "mean from sum": (lambda x: x.sum(-1) / 5, lambda x: x.mean(dim=3)),
    "keepdim": (lambda x: x.mean(-1).unsqueeze(-1), lambda x: x.mean(-1, keepdim=True)),
    "norm": (lambda x: torch.linalg.vector_norm(x, dim=-1), lambda x: (x * x).sum(-1) ** 0.5),
    "transposition": (lambda x: x.transpose(-1, -2), lambda x: x.permute(0, 1, 3, 2)),
    "mT": (lambda x: x.mT, lambda x: x.transpose(2, 3)),
    "two permutations": (lambda x: x.permute(0, 2, 1, 3).permute(0, 2, 3, 1), lambda x: x.permute(0, 1, 3, 2)),
    "views": (lambda x: x.flatten(1, 2).unsqueeze(1), lambda x: x.view(2, 1, 12, 5)),
    "relu6": (lambda x: F.relu6(x), lambda x: x.clamp(0, 6)),
    "two limits": (lambda x: F.relu(x).clamp(max=6), lambda x: F.hardtanh(x, 0.0, 6.0)),
    "odd function": (lambda x: -torch.erf(-x), lambda x: torch.erf(x)),
    "masked_fill": (lambda x: x.masked_fill(x > 1, -2.0), lambda x: torch.where(x > 1, torch.full([], -2.0), x)),
    "negated mask": (lambda x: x.masked_fill(~(x > 1), -2.0), lambda x: torch.where(x > 1, x, -2.0)),
    "what computes nothing": (lambda x: F.dropout(x.float().contiguous() * 1.0, 0.5, False).exp(), lambda x: x.exp()),
    "scale of a product": (lambda x: (x * 2) @ x.mT, lambda x: (x @ x.mT) * 2),
    "einsum": (lambda x: torch.einsum("abij,abkj->abik", x, x), lambda x: x @ x.mT),
}


@pytest.mark.parametrize(("one", "other"), SAME.values(), ids=SAME.keys())
def test_two_spellings_read_the_same(one: Function, other: Function) -> None:
    torch.testing.assert_close(one(X), other(X), atol=1e-4, rtol=1e-5)  # the claim itself; one reassociation of 60 terms
    assert read(one) == read(other)


DIFFERENT: dict[str, tuple[Function, Function]] = {
    "root of a square is the magnitude": (lambda x: (x**2) ** 0.5, lambda x: x),
    "a negative factor under a root": (lambda x: (-2 * x) ** 0.5, lambda x: math.sqrt(2) * (-x) ** 0.5),
    "x**2 / x is not x at zero": (lambda x: x**2 / x, lambda x: x),
    "unbiased variance": (lambda x: x.var(-1), lambda x: x.var(-1, unbiased=False)),
    "another axis": (lambda x: x.mean(-1, keepdim=True), lambda x: x.mean(-2, keepdim=True)),
    "dropout that is on": (lambda x: F.dropout(x, 0.5, True), lambda x: x),
    "truncation": (lambda x: torch.div(x, 2, rounding_mode="floor"), lambda x: x / 2),
    "another cast": (lambda x: x.half().float(), lambda x: x),
    "a slice": (lambda x: x[..., ::2].sum(), lambda x: x.sum()),
}


@pytest.mark.parametrize(("one", "other"), DIFFERENT.values(), ids=DIFFERENT.keys())
def test_what_differs_reads_differently(one: Function, other: Function) -> None:
    assert read(one) != read(other)


def test_a_shared_value_is_not_flattened_into_its_users() -> None:
    def function(x: Tensor) -> Tensor:
        y = x + 1
        return (y + 2) * torch.exp(y)

    program = trace_function(function, X)
    form = NormalForm(program.weight)
    (outer,) = [n for n in program.calls(torch.ops.aten.add.Tensor) if n.args[1] == 2]
    assert text(form.view(outer).term) == "(2 + %add)"


def test_reading_changes_nothing() -> None:
    program = trace_function(lambda x: x.var(-1) * 2 / 3, X)
    before = str(program.graph)
    form = NormalForm(program.weight)
    for node in program.graph.nodes:
        form.view(node)
    assert str(program.graph) == before
