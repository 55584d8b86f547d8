"""RewritePass: two PyTorch functions make a pass; what it rewrites, what it refuses and how it says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from edgecc.errors import UsageError
from edgecc.ir.signature import Dim
from edgecc.rewrite.rewrite_pass import Match, RewritePass, Rule
from edgecc.testing import operators
from tests.rewrite.fusing import fused, normal, reasons

X = normal(2, 3, 8)


@dataclass(frozen=True)
class FuseSoftplus(RewritePass):
    """The shortest pass: two functions."""

    name = "fuse-softplus"

    @staticmethod
    def pattern(x: Tensor) -> Tensor:
        return torch.log(1 + x.exp())

    @staticmethod
    def replacement(x: Tensor) -> Tensor:
        return F.softplus(x)


@dataclass(frozen=True)
class FuseLeakyRelu(RewritePass):
    """A literal wildcard, methods instead of static ones, and a condition."""

    name = "fuse-leaky-relu"
    steepest: float = 1.0

    def pattern(self, x: Tensor, slope: float = 0.0123) -> Tensor:
        return F.relu(x) + slope * (x - F.relu(x))

    def replacement(self, x: Tensor, slope: float) -> Tensor:
        return F.leaky_relu(x, slope)

    def where(self, match: Match) -> str | None:
        return (
            None if 0 <= match.number("slope") <= self.steepest else f"the slope is {match.number('slope'):g}, want 0 to {self.steepest:g}"
        )


def leaky(slope: float) -> Callable[[Tensor], Tensor]:
    def function(x: Tensor) -> Tensor:
        positive = F.relu(x)
        return positive + slope * (x - positive)

    return function


def test_two_functions_make_a_pass() -> None:
    program, count, context = fused(FuseSoftplus(), lambda x: torch.log(torch.exp(x) + 1.0), X)
    assert count == 1 and operators(program) == ["aten.softplus"]
    assert [r.kind for r in context.remarks] == ["applied"]


def test_a_literal_wildcard_takes_the_number_of_the_program() -> None:
    program, count, _ = fused(FuseLeakyRelu(), leaky(0.2), X)
    assert count == 1 and operators(program) == ["aten.leaky_relu"] and program.calls()[0].args[1] == pytest.approx(0.2)


def test_a_condition_refuses_with_its_reason() -> None:
    _, count, context = fused(FuseLeakyRelu(), leaky(1.5), X)
    assert count == 0 and reasons(context) == ["the slope is 1.5, want 0 to 1"]
    assert fused(FuseLeakyRelu(steepest=2.0), leaky(1.5), X)[1] == 1


def test_every_place_is_rewritten_and_counted() -> None:
    program, count, _ = fused(FuseLeakyRelu(), lambda x: leaky(0.1)(leaky(0.2)(x) + 1) * leaky(0.3)(x), X)
    assert count == 3 and operators(program).count("aten.leaky_relu") == 3


def test_a_replacement_of_another_shape_is_refused_and_the_program_left_as_it_was() -> None:
    @dataclass(frozen=True)
    class Wrong(RewritePass):
        name = "wrong"

        @staticmethod
        def pattern(x: Tensor) -> Tensor:
            return x.exp() * x.sigmoid()

        @staticmethod
        def replacement(x: Tensor) -> Tensor:
            return x.exp()[..., :1]

    program, count, context = fused(Wrong(), lambda x: x.exp() * x.sigmoid(), X)
    assert count == 0 and operators(program) == ["aten.exp", "aten.sigmoid", "aten.mul.Tensor"]
    assert reasons(context) == ["the replacement has shape [2, 3, 1], want [2, 3, 8]"]


def test_rules_are_tried_in_order_and_a_look_alike_explains() -> None:
    cubed = Rule(lambda x: x**3 + torch.tanh(x), None, lambda match: "the cube is no square")
    squared = Rule(lambda x: x**2 + torch.tanh(x), lambda x: torch.special.expit(x))

    @dataclass(frozen=True)
    class Several(RewritePass):
        name = "several"

        def rules(self) -> Sequence[Rule]:
            return [squared, cubed]

    _, count, context = fused(Several(), lambda x: x**3 + torch.tanh(x), X)
    assert count == 0 and reasons(context) == ["the cube is no square"]


def test_a_literal_that_the_arithmetic_of_the_pattern_swallows_is_an_error_of_its_author() -> None:
    @dataclass(frozen=True)
    class Lost(RewritePass):
        name = "lost"

        @staticmethod
        def pattern(x: Tensor, eps: float = 1.5) -> Tensor:
            return x.exp() + (eps + 1)

        @staticmethod
        def replacement(x: Tensor, eps: float) -> Tensor:
            return x

    with pytest.raises(UsageError, match="'eps' of a pattern is lost"):
        fused(Lost(), lambda x: x.exp() + 3, X)


def test_a_pass_without_functions_is_an_error_of_its_author() -> None:
    @dataclass(frozen=True)
    class Nothing(RewritePass):
        name = "nothing"

    with pytest.raises(UsageError, match="no pattern and replacement"):
        fused(Nothing(), lambda x: x + 1, X)


def test_the_replacement_keeps_symbolic_sizes() -> None:
    program, count, _ = fused(FuseLeakyRelu(), leaky(0.2), X, dims={"x": {0: Dim("batch", 1, 8)}})
    assert count == 1 and program.calls()[0].meta["val"].shape[0] == program.inputs()[0].meta["val"].shape[0]


def test_a_tensor_that_the_replacement_makes_becomes_part_of_the_program() -> None:
    @dataclass(frozen=True)
    class Shifted(RewritePass):
        name = "shifted"

        @staticmethod
        def pattern(x: Tensor) -> Tensor:
            return x.sigmoid() * x.cos()

        @staticmethod
        def replacement(x: Tensor) -> Tensor:
            return torch.cos(x + torch.tensor([0.0])) / (1 + torch.exp(-x))

    program, count, _ = fused(Shifted(), lambda x: x.sigmoid() * x.cos(), X)
    assert count == 1 and len(program.weights()) == 1
