"""fuse-hard-swish: hard swish and hard sigmoid in their spellings."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import Tensor
from torch.nn import functional as F

from edgecc.passes.fuse_hard_swish import FuseHardSwish
from edgecc.testing import operators
from tests.rewrite.fusing import fused, normal, reasons

X = 4 * normal(2, 5, 8)
Function = Callable[[Tensor], Tensor]
SWISH: dict[str, Function] = {
    "x * relu6(x + 3) / 6": lambda x: x * F.relu6(x + 3) / 6,
    "x * (relu6(x + 3) / 6)": lambda x: x * (F.relu6(x + 3.0) / 6.0),
    "hardtanh": lambda x: x * F.hardtanh(x + 3, 0.0, 6.0) * (1 / 6),
    "clamp": lambda x: x * (x + 3).clamp(0, 6) / 6,
    "clamp to 1": lambda x: x * (x / 6 + 0.5).clamp(0, 1),
    "relu, then an upper limit": lambda x: x * F.relu(x + 3).clamp(max=6) / 6,
    "x * hardsigmoid(x)": lambda x: x * F.hardsigmoid(x),
}
SIGMOID: dict[str, Function] = {
    "relu6(x + 3) / 6": lambda x: F.relu6(x + 3) / 6,
    "clamp to 1": lambda x: (x / 6 + 0.5).clamp(0, 1),
}


@pytest.mark.parametrize("function", SWISH.values(), ids=SWISH.keys())
def test_every_spelling_is_one_hardswish(function: Function) -> None:
    program, count, _ = fused(FuseHardSwish(), function, X)
    assert count == 1 and operators(program) == ["aten.hardswish"]


@pytest.mark.parametrize("function", SIGMOID.values(), ids=SIGMOID.keys())
def test_the_factor_alone_is_hardsigmoid(function: Function) -> None:
    program, count, context = fused(FuseHardSwish(), function, X)
    assert count == 1 and operators(program) == ["aten.hardsigmoid"] and reasons(context) == []


def test_the_operators_themselves_are_left_alone_silently() -> None:
    _, count, context = fused(FuseHardSwish(), lambda x: F.hardswish(x) + F.hardsigmoid(x), X)
    assert count == 0 and reasons(context) == []


LEFT_ALONE: dict[str, Function] = {
    "another shift": lambda x: x * F.relu6(x + 2) / 6,
    "another limit": lambda x: x * (x + 3).clamp(0, 5) / 5,
    "another slope": lambda x: (0.2 * x + 0.5).clamp(0, 1),
    "another x": lambda x: x.neg() * F.relu6(x + 1),
    "relu6 alone": lambda x: F.relu6(x),
}


@pytest.mark.parametrize("function", LEFT_ALONE.values(), ids=LEFT_ALONE.keys())
def test_another_function_is_left_alone(function: Function) -> None:
    _, count, _ = fused(FuseHardSwish(), function, X)
    assert count == 0


def test_another_limit_is_named() -> None:
    _, _, context = fused(FuseHardSwish(), LEFT_ALONE["another limit"], X)
    assert reasons(context) == ["clamp has high 5, want 6"]


def test_a_limit_that_is_used_outside_keeps_the_spelling() -> None:
    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        y = F.relu6(x + 3)
        return x * y / 6, y

    _, count, context = fused(FuseHardSwish(), function, X)
    assert count == 0 and reasons(context) == ["%relu6 is used outside the pattern by %output"]
