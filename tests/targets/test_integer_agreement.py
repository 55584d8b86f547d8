"""Agreement of CPU builds with integer programs: equal bit for bit, and a wrong one is found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import edgecc
from edgecc.errors import ContractError
from edgecc.ir.program import Program
from edgecc.quantization import reference
from edgecc.targeting.base import Arrays, Runner
from edgecc.targets.tvm_cpu.agreement import agreement


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x)).mean((2, 3)))


class Fake(Runner):
    """PyTorch in the place of a build, one number moved."""

    runtime = "PyTorch"

    def __init__(self, program: Program, moved: float) -> None:
        self.program, self.moved = program, moved

    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        outputs = self.program(*(torch.from_numpy(inputs[s.name]) for s in self.program.signature.inputs))
        arrays = {s.name: t.numpy().copy() for s, t in zip(self.program.signature.outputs, outputs, strict=True)}
        next(iter(arrays.values())).reshape(-1)[0] += self.moved
        return arrays


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    pytest.importorskip("tvm", reason="Apache TVM is not installed")
    options = edgecc.CompileOptions(quant="int8")
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return edgecc.compile(Net().eval(), (x,), target="x86_cpu", options=options, output=tmp_path_factory.mktemp("out") / "net")


def test_a_compiled_model_says_that_its_integers_are_exact(result):
    found = result.report.as_dict()["verify"]["quantized"]
    assert found["exact"] and found["equal"] == 1.0 and found["integers"] > 0
    assert not reference.islands(result.program)


def test_one_number_one_step_off_is_found(result):
    step = 1e-3
    found = agreement(result.program, [Fake(result.program, step)], [result.program.examples])
    assert found is not None and "80.0000% of 5 numbers equal, want all of them" in found.broken()[0]
    assert agreement(result.program, [Fake(result.program, 0.0)], [result.program.examples]).broken() == []


def test_a_build_that_differs_is_refused(monkeypatch, tmp_path):
    from edgecc.targets.x86_cpu.target import X86Cpu

    def wrong(self, program, directory, manifest, samples):
        return agreement(program, [Fake(program, 1e-3)], samples)

    monkeypatch.setattr(X86Cpu, "agreement", wrong)
    with pytest.raises(ContractError, match="other integers than PyTorch"):
        edgecc.compile(
            Net().eval(), (torch.randn(1, 3, 8, 8),), target="x86_cpu", options=edgecc.CompileOptions(quant="int8"), output=tmp_path / "net"
        )
    assert not (tmp_path / "net").exists()


def test_a_program_without_integers_has_none(result):
    program = edgecc.trace(Net().eval(), (torch.randn(1, 3, 8, 8),))
    assert agreement(program, [], []) is None
