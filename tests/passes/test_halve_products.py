"""halve-products: products round to float16, everything else keeps float32, and what float16 does not hold is left alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgecc.passes.halve_products import HalveProducts
from edgecc.testing import apply, operators, trace_function


def _halved(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.float16).to(torch.float64)


def test_a_linear_multiplies_rounded_numbers_and_adds_its_bias_in_float32() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(64, 16), torch.randn(5, 64)
    program = trace_function(layer, x)
    count, _ = apply(HalveProducts(), program)
    exact = _halved(x) @ _halved(layer.weight.detach()).t() + layer.bias.detach().double()
    # the sum is rounded to float16 once at least: half a unit in the last place of 2^-11
    assert count == 1 and float((program(x)[0].double() - exact).abs().max()) <= float(exact.abs().max()) * 2**-10
    assert operators(program) == ["aten.to.dtype", "aten.linear", "aten.to.dtype", "aten.add.Tensor"]
    assert [t.dtype for t in program.weights().values()].count(torch.float16) == 1 and program(x)[0].dtype == torch.float32


@pytest.mark.parametrize("padding", [1, "same"])
def test_a_convolution_keeps_its_options(padding: object) -> None:
    torch.manual_seed(0)
    conv, x = nn.Conv2d(8, 12, 3, padding=padding, groups=2), torch.randn(2, 8, 9, 9)
    program = trace_function(conv, x)
    apply(HalveProducts(), program)
    exact = F.conv2d(_halved(x), _halved(conv.weight.detach()), conv.bias.detach().double(), padding=1, groups=2)
    assert float((program(x)[0].double() - exact).abs().max()) <= float(exact.abs().max()) * 2**-10


def test_a_weight_beyond_float16_stays_where_it_is() -> None:
    layer = nn.Linear(4, 4)
    layer.weight.data[0, 0] = 70000.0
    program = trace_function(layer, torch.ones(1, 4))
    count, context = apply(HalveProducts(), program)
    assert count == 0 and "beyond float16" in next(iter(context.remarks)).message


def test_a_second_run_finds_nothing() -> None:
    program = trace_function(nn.Linear(4, 4), torch.ones(1, 4))
    apply(HalveProducts(), program)
    assert apply(HalveProducts(), program)[0] == 0
