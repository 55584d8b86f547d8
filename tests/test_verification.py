"""A target that computes something wrong is caught, and the operator that it gets wrong is named with its line."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

import edgecc
from edgecc.errors import ContractError
from edgecc.pipeline.numerics import distance
from edgecc.report import RuntimeCheck
from edgecc.verification import broken
from tests.cli.torch_host import TorchHost

aten = torch.ops.aten


@dataclass(frozen=True)
class WrongTanh(TorchHost):
    """Lowers tanh as sigmoid."""

    name = "wrong_tanh"

    def lower(self, program, directory, context):
        wrong = program.snapshot()
        for node in wrong.calls(aten.tanh.default):
            wrong.retarget(node, aten.sigmoid.default, node.args[0])
        wrong.recompile()
        return super().lower(wrong, directory, context)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        x = torch.relu(self.first(x))
        x = torch.tanh(self.second(x))
        return x * 2


PIPELINE = edgecc.CompileOptions(pipeline="normalize: canonicalize")


def test_the_first_node_that_the_runtime_gets_wrong_is_named(tmp_path):
    with pytest.raises(ContractError) as caught:
        edgecc.compile(Net(), torch.randn(2, 4), target=WrongTanh(), options=PIPELINE, output=tmp_path / "out")
    assert "in the lowering of wrong_tanh" in caught.value.message
    assert "%tanh" in caught.value.message and "test_verification.py:" in caught.value.message
    assert list(tmp_path.iterdir()) == []


def test_a_right_target_passes(tmp_path):
    result = edgecc.compile(Net(), torch.randn(2, 4), target=TorchHost(), options=PIPELINE, output=tmp_path / "out")
    assert result.report.checks[0].distance.equal


def test_a_model_that_draws_random_numbers_is_refused(tmp_path):
    class Noisy(nn.Module):
        def forward(self, x):
            return x + torch.rand_like(x)

    with pytest.raises(edgecc.EdgeccError, match="does not compute what the model computes"):
        edgecc.compile(Noisy(), torch.randn(2, 4), target=TorchHost(), options=PIPELINE, output=tmp_path / "out")


@pytest.mark.parametrize("scale, holds", [(0.05, True), (0.2, False)])
def test_where_a_tolerance_says_little_all_numbers_must_be_near_too(scale, holds):
    """Both are within 0.3 of the largest magnitude; noise of a fifth of the signal has an SQNR of 14 dB, of a twentieth 26 dB."""
    want = torch.tensor([1.0, -1.0] * 50)
    noise = scale * torch.tensor([1.0, 1.0, -1.0, -1.0] * 25)
    check = RuntimeCheck("a runtime", 1, distance((want,), (want + noise,)))
    assert broken([check], 0.3) == []
    assert (broken([check], 0.3, 20.0) == []) == holds
