"""fuse-silu: `x * sigmoid(x)` in its spellings, and nothing that only looks like it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from edgecc.passes.fuse_silu import FuseSilu
from edgecc.testing import operators
from tests.rewrite.fusing import fused, normal, reasons

X = normal(2, 5, 8)
Function = Callable[[Tensor], Tensor]
SPELLINGS: dict[str, Function] = {
    "x * sigmoid(x)": lambda x: x * torch.sigmoid(x),
    "sigmoid(x) * x": lambda x: x.sigmoid() * x,
    "x / (1 + exp(-x))": lambda x: x / (1 + torch.exp(-x)),
    "x * (1 / (1 + exp(-x)))": lambda x: x * (1 / (torch.exp(-x) + 1)),
    "tanh": lambda x: 0.5 * x * (1 + torch.tanh(0.5 * x)),
}


@pytest.mark.parametrize("function", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_every_spelling_is_one_silu(function: Function) -> None:
    program, count, _ = fused(FuseSilu(), function, X)
    assert count == 1 and operators(program) == ["aten.silu"]


def test_a_gate_in_the_middle_stays() -> None:
    program, count, _ = fused(FuseSilu(), lambda x, up: x * up * torch.sigmoid(x), X, X + 1)
    assert count == 1 and operators(program) == ["aten.silu", "aten.mul.Tensor"]


def test_a_scale_inside_is_left_alone() -> None:
    _, count, context = fused(FuseSilu(), lambda x: x * torch.sigmoid(1.702 * x), X)
    assert count == 0 and reasons(context) == ["x is %mul in one place and %x in another"]


def test_a_gate_is_no_near_miss() -> None:
    _, count, context = fused(FuseSilu(), lambda x: x * torch.sigmoid(x.flip(0)), X)
    assert count == 0 and reasons(context) == []


def test_a_sigmoid_that_is_used_outside_keeps_the_spelling() -> None:
    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        s = torch.sigmoid(x)
        return x * s, s

    _, count, context = fused(FuseSilu(), function, X)
    assert count == 0 and reasons(context) == ["%sigmoid is used outside the pattern by %output"]
