"""Products in float16 on ARM CPUs that have the arithmetic: the binary runs, multiplies by halves, and is close to the model."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import edgecc
from edgecc.errors import UsageError
from edgecc.targets.arm_cpu.target import ArmCpu
from edgecc.targets.x86_cpu.target import X86Cpu


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.depthwise = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.first, self.second = nn.Linear(64, 96), nn.Linear(96, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.depthwise(torch.relu(self.conv(x)))).flatten(2)
        return self.second(torch.softmax(self.first(x) @ self.first(x).transpose(1, 2), -1) @ torch.tanh(self.first(x)))


@pytest.mark.slow
def test_a_model_runs_by_halves(tmp_path) -> None:
    pytest.importorskip("tvm", reason="Apache TVM is not installed")
    x = torch.randn(1, 3, 8, 8)
    sizes = {}
    for precision in ("fp32", "fp16"):
        target = ArmCpu(cpu="cortex-a76", precision=precision)
        result = edgecc.compile(Net().eval(), (x,), target=target, output=tmp_path / precision)
        sizes[precision] = sum(t.nbytes for t in result.program.weights().values())
        verify = result.report.as_dict()["verify"]
    assert "cortex-a76" in verify["runtime"] and verify["sqnr_db"] > 45
    assert sizes["fp16"] < 0.55 * sizes["fp32"]


@pytest.mark.parametrize(("target", "cpu"), [(ArmCpu, "cortex-a72"), (X86Cpu, "x86-64-v3")])
def test_a_cpu_without_the_arithmetic_is_refused(target, cpu) -> None:
    with pytest.raises(UsageError, match="no arithmetic in float16"):
        target(cpu=cpu, precision="fp16")
    with pytest.raises(UsageError, match="want fp32 or fp16"):
        target(cpu=cpu, precision="fp8")


def test_a_half_model_is_refused_beyond_products(tmp_path) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8)).half().eval()
    with pytest.raises(edgecc.errors.UnsupportedError, match="float16 outside of products"):
        edgecc.compile(model, (torch.ones(1, 8, dtype=torch.float16),), target=ArmCpu(cpu="cortex-a76"), output=tmp_path / "out")
