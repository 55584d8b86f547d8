"""merge-low-rank: the product of two layers, and what stands between them or beside them keeps them apart."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgecc.passes.merge_low_rank import MergeLowRank
from edgecc.testing import apply, operators, trace_function
from tests.rewrite.fusing import normal, reasons

X = normal(3, 16)


@pytest.mark.parametrize("inner", [True, False])
@pytest.mark.parametrize("outer", [True, False])
def test_two_layers_become_one(inner: bool, outer: bool) -> None:
    torch.manual_seed(0)
    pair = nn.Sequential(nn.Linear(16, 4, bias=inner), nn.Linear(4, 12, bias=outer))
    program = trace_function(pair, X)
    count, context = apply(MergeLowRank(), program)
    assert count == 1 and operators(program) == ["aten.linear"]
    assert "rank 4 of [12, 16]" in next(iter(context.remarks)).message
    # sums of 4 and 16 terms in float32, in another order
    torch.testing.assert_close(program(X)[0], pair(X).detach(), atol=1e-6, rtol=1e-5)
    assert apply(MergeLowRank(), program)[0] == 0


def test_an_activation_keeps_them_apart() -> None:
    program = trace_function(nn.Sequential(nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 12)), X)
    assert apply(MergeLowRank(), program)[0] == 0


def test_a_value_that_is_read_twice_keeps_them_apart() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(16, 4), nn.Linear(4, 12)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            y = self.first(x)
            return self.second(y), y

    program = trace_function(Both(), X)
    count, context = apply(MergeLowRank(), program)
    assert count == 0 and reasons(context) == ["%linear, which it reads, is read by others too"]


def test_three_in_a_row_become_one() -> None:
    torch.manual_seed(0)
    chain = nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 4), nn.Linear(4, 12))
    program = trace_function(chain, X)
    assert apply(MergeLowRank(), program)[0] == 2
    assert operators(program) == ["aten.linear"]
    torch.testing.assert_close(program(X)[0], chain(X).detach(), atol=1e-6, rtol=1e-5)
