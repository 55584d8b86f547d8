"""fuse-gelu: every spelling becomes one operator, and what is not GELU stays."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from edgecc.ir.provenance import source_line
from edgecc.ir.signature import Dim
from edgecc.passes.fuse_gelu import FuseGelu
from edgecc.testing import operators
from tests.rewrite.fusing import fused, normal, reasons

X = normal(2, 5, 8)
Function = Callable[[Tensor], Tensor]


def divided_argument(x: Tensor) -> Tensor:
    u = x / math.sqrt(2)
    return 0.5 * x * (1 + torch.erf(u))


def shared_half(x: Tensor) -> Tensor:
    y = 0.5 * x
    return y + y * torch.erf(x / math.sqrt(2))


ERF: dict[str, Function] = {
    "0.5 * x * (1 + erf(x / sqrt 2))": lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))),
    "x * 0.5 * (1 + erf(x * 0.7071))": lambda x: x * 0.5 * (1.0 + torch.erf(x * 0.7071067811865475)),
    "x * (0.5 + 0.5 * erf)": lambda x: x * (0.5 + 0.5 * torch.erf(x / 1.4142135)),
    "(x / 2) * (erf + 1)": lambda x: (x / 2) * (torch.erf(x / math.sqrt(2)) + 1),
    "x * (1 + erf) / 2": lambda x: x * (1 + torch.erf(x / math.sqrt(2))) / 2,
    "0.5 * (x * (1 + erf))": lambda x: 0.5 * (x * (1 + torch.erf(x / math.sqrt(2)))),
    "x * erfc(-x / sqrt 2) / 2": lambda x: x * 0.5 * torch.erfc(-x / math.sqrt(2)),
    "x * (1 - erf(-x / sqrt 2)) / 2": lambda x: x * 0.5 * (1 - torch.erf(-x / math.sqrt(2))),
    "x * ndtr(x)": lambda x: x * torch.special.ndtr(x),
    "x * Normal.cdf(x)": lambda x: x * torch.distributions.Normal(0.0, 1.0, validate_args=False).cdf(x),
    "0.5 * x + 0.5 * x * erf": lambda x: 0.5 * x + 0.5 * x * torch.erf(x / math.sqrt(2)),
    "y + y * erf": shared_half,
    "named argument": divided_argument,
    "dropout in between": lambda x: 0.5 * x * F.dropout(1 + torch.erf(x / math.sqrt(2)), 0.1, False),
}
TANH: dict[str, Function] = {
    "Hugging Face NewGELU": lambda x: 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0)))),
    "Hugging Face FastGELU": lambda x: 0.5 * x * (1.0 + torch.tanh(x * 0.7978845608 * (1.0 + 0.044715 * x * x))),
    "x * x * x": lambda x: x * 0.5 * (1 + torch.tanh((x + 0.044715 * x * x * x) * 0.7978845608028654)),
    "x * sigmoid(2 * u)": lambda x: x * torch.sigmoid(1.5957691216057308 * (x + 0.044715 * x**3)),
    "x * sigmoid, factored": lambda x: x * torch.sigmoid(1.5957691216057308 * x * (1 + 0.044715 * x**2)),
    "y + y * tanh": lambda x: 0.5 * x + 0.5 * x * torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)),
}


@pytest.mark.parametrize("function", ERF.values(), ids=ERF.keys())
def test_every_erf_spelling_is_one_exact_gelu(function: Function) -> None:
    program, count, _ = fused(FuseGelu(), function, X)
    assert count == 1 and operators(program) == ["aten.gelu"]
    assert "approximate" not in program.calls()[0].kwargs


@pytest.mark.parametrize("function", TANH.values(), ids=TANH.keys())
def test_every_tanh_spelling_is_one_approximate_gelu(function: Function) -> None:
    program, count, _ = fused(FuseGelu(), function, X)
    assert count == 1 and operators(program) == ["aten.gelu"]
    assert program.calls()[0].kwargs == {"approximate": "tanh"}


def test_a_scaled_gelu_keeps_its_scale() -> None:
    program, count, _ = fused(FuseGelu(), lambda x: 3.0 * x * (1 + torch.erf(x / math.sqrt(2))), X)
    assert count == 1 and operators(program) == ["aten.gelu", "aten.mul.Tensor"]


def test_a_gate_beside_it_stays() -> None:
    program, count, _ = fused(FuseGelu(), lambda x, g: x * g * (0.5 + 0.5 * torch.erf(x / math.sqrt(2))), X, normal(2, 5, 8, seed=1))
    assert count == 1 and operators(program) == ["aten.gelu", "aten.mul.Tensor"]


LEFT_ALONE: dict[str, tuple[Function, str]] = {
    "erf of x / 2": (lambda x: 0.5 * x * (1 + torch.erf(x * 0.5)), "the argument of erf is scaled by 0.5, want 0.707107"),
    "2 + erf": (lambda x: 0.5 * x * (2 + torch.erf(x / math.sqrt(2))), "a factor adds 2, want 1"),
    "1 - erf": (lambda x: 0.5 * x * (1 - torch.erf(x / math.sqrt(2))), "a factor adds -1, want 1"),
    "another x": (lambda x: 0.5 * x * (1 + torch.erf(x.relu() / math.sqrt(2))), "x is %relu in one place and %x in another"),
    "quick GELU": (lambda x: x * torch.sigmoid(1.702 * x), "x * sigmoid(1.702 * x) differs from GELU by up to 0.02"),
    "another cubic": (
        lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * x * (1 + 0.05 * x**2))),
        "a factor of the argument of tanh adds 0.8943, want 1",
    ),
}


@pytest.mark.parametrize(("function", "reason"), LEFT_ALONE.values(), ids=LEFT_ALONE.keys())
def test_another_function_is_left_alone_with_the_reason(function: Function, reason: str) -> None:
    _, count, context = fused(FuseGelu(), function, X)
    assert count == 0 and reasons(context) == [reason]


def test_an_inner_value_that_is_used_outside_keeps_the_spelling() -> None:
    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        e = torch.erf(x / math.sqrt(2))
        return 0.5 * x * (1 + e), e * 3

    _, count, context = fused(FuseGelu(), function, X)
    assert count == 0 and reasons(context) == ["%erf is used outside the pattern by %mul_2"]


def test_a_gated_unit_is_no_near_miss() -> None:
    _, count, context = fused(FuseGelu(), lambda x, y: x * torch.sigmoid(y @ y.mT @ x), X, X + 1)
    assert count == 0 and reasons(context) == []


def test_it_fuses_with_dynamic_sizes() -> None:
    dims = {"x": {0: Dim("batch", 1, 8), 1: Dim("seq", 1, 64)}}
    program, count, _ = fused(FuseGelu(), lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))), X, dims=dims)
    assert count == 1 and program(normal(3, 9, 8))[0].shape == (3, 9, 8)


class Mlp(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x)
        return 0.5 * y * (1 + torch.erf(y / math.sqrt(2)))


def test_the_new_node_keeps_the_source_line_and_the_remark_says_what_happened() -> None:
    program, _, context = fused(FuseGelu(), Mlp(), X)
    (node,) = program.calls(torch.ops.aten.gelu.default)
    assert source_line(node).startswith("test_fuse_gelu.py:")
    (remark,) = context.remarks
    assert (remark.kind, remark.message) == ("applied", "5 operators became aten.gelu")
    assert remark.source.startswith("test_fuse_gelu.py:")
