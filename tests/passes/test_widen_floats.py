"""widen-floats: what is left is the model in float32 with the same weights, and the dtypes of its ends."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from edgecc.passes.widen_floats import WidenFloats
from edgecc.testing import apply, trace_function
from tests.rewrite.fusing import normal

HALVES = [torch.float16, torch.bfloat16]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.layer, self.gain = nn.Embedding(50, 16), nn.Linear(16, 50), nn.Parameter(torch.rand(16))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.table(ids)
        y = x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.layer(self.gain * y.to(x.dtype) + torch.zeros(16, dtype=x.dtype))


@pytest.mark.parametrize("half", HALVES)
def test_a_program_of_half_precision_computes_in_float32(half: torch.dtype) -> None:
    torch.manual_seed(0)
    net, ids = Net().to(half), torch.randint(0, 50, (2, 7))
    program = trace_function(net, ids)
    count, _ = apply(WidenFloats(), program)
    wanted = copy.deepcopy(net).float()(ids)  # PyTorch eager on the same numbers
    assert count > 0 and program(ids)[0].dtype == half
    torch.testing.assert_close(program(ids)[0], wanted.to(half), atol=0, rtol=0)
    assert program.dtypes() <= {torch.float32, torch.int64, half}
    assert {t.dtype for t in program.weights().values()} == {torch.float32}


def test_inputs_keep_their_dtype() -> None:
    layer, x = nn.Linear(16, 4).half(), normal(3, 16).half()
    program = trace_function(layer, x)
    apply(WidenFloats(), program)
    torch.testing.assert_close(program(x)[0], copy.deepcopy(layer).float()(x.float()).half(), atol=0, rtol=0)


@pytest.mark.parametrize("half", HALVES)
def test_a_second_run_finds_nothing(half: torch.dtype) -> None:
    program = trace_function(nn.Linear(16, 4).to(half), normal(3, 16).to(half))
    apply(WidenFloats(), program)
    assert apply(WidenFloats(), program)[0] == 0


def test_a_program_in_float32_is_left_alone() -> None:
    program = trace_function(nn.Linear(16, 4), normal(3, 16))
    assert apply(WidenFloats(), program)[0] == 0
