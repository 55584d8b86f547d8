"""eliminate-common-subexpressions: equal calls share a node, and only equal ones."""

from __future__ import annotations

import torch
from torch import nn

from edgecc.ir.signature import Dim
from edgecc.passes.eliminate_common_subexpressions import EliminateCommonSubexpressions
from edgecc.testing import apply, operators, trace_function

X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))


def merged(function: object, **options: bool) -> tuple[int, list[str]]:
    program = trace_function(function, X)
    before = program(X)
    count, _ = apply(EliminateCommonSubexpressions(**options), program)
    assert all(torch.equal(a, b) for a, b in zip(before, program(X), strict=True))
    assert apply(EliminateCommonSubexpressions(**options), program)[0] == 0
    return count, operators(program)


def test_a_chain_that_is_written_twice_is_computed_once() -> None:
    count, left = merged(lambda x: (x.sin() * 2).exp() + (x.sin() * 2).exp())
    assert count == 3 and left == ["aten.sin", "aten.mul.Tensor", "aten.exp", "aten.add.Tensor"]


def test_numbers_that_python_calls_equal_are_told_apart() -> None:
    assert merged(lambda x: (x * 0.0, x * -0.0))[0] == 0
    assert merged(lambda x: (torch.full_like(x, 1), torch.full_like(x, True), torch.full_like(x, 1.0)))[0] == 0
    assert merged(lambda x: (x.to(torch.float64), x.to(torch.float16)))[0] == 0
    assert merged(lambda x: (x.sum(0), x.sum(1), x.sum((0, 1))))[0] == 0


def test_random_calls_are_not_merged() -> None:
    program = trace_function(lambda x: torch.rand_like(x) - torch.rand_like(x), X)
    assert apply(EliminateCommonSubexpressions(), program)[0] == 0


def test_dynamic_sizes_are_read_once() -> None:
    program = trace_function(
        lambda x: x.view(x.shape[0], 2, 2).sum(1) + x.view(x.shape[0], 2, 2).sum(1), X, dims={"x": {0: Dim("b", 1, 8)}}
    )
    assert apply(EliminateCommonSubexpressions(), program)[0] == 2
    other = torch.randn(5, 4)
    assert torch.equal(program(other)[0], 2 * other.view(5, 2, 2).sum(1))


class Twice(nn.Module):
    """Two layers with equal weights, stored apart or as one tensor."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.b.weight = self.a.weight if tied else nn.Parameter(self.a.weight.detach().clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(x).relu())


def test_equal_weights_are_merged_only_when_asked() -> None:
    assert merged(Twice(tied=False))[0] == 0
    program = trace_function(Twice(tied=False), X)
    assert apply(EliminateCommonSubexpressions(equal_weights=True), program)[0] == 1
    assert list(program.weights()) == ["a.weight"]


def test_weights_that_differ_in_one_bit_are_not_merged() -> None:
    model = Twice(tied=False)
    model.b.weight.data[0, 0] = -model.b.weight.data[0, 0]
    assert merged(model, equal_weights=True)[0] == 0


def test_a_tied_weight_is_one_node() -> None:
    program = trace_function(Twice(tied=True), X)
    apply(EliminateCommonSubexpressions(), program)
    assert len(program.weights()) == 1
