"""What tests of the CPU targets share: compile a program, and the runner that executes the ARM binary itself."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgecc.errors import MissingToolError
from edgecc.ir.program import Program
from edgecc.pipeline.context import PassContext
from edgecc.targets.tvm_cpu.device import runner_program
from edgecc.targets.tvm_cpu.linker import find_toolchain
from edgecc.targets.tvm_cpu.machines import TRIPLES, machine
from edgecc.targets.tvm_cpu.runners import ProcessRunner, emulator, find_runners
from edgecc.targets.tvm_cpu.target import TvmCpu

DATA = Path(__file__).parents[3] / "shared" / "data"


class SmallNet(nn.Module):
    """A convolution and a linear layer: [batch, 2, 8, 8] -> [batch, 5]."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.fc = nn.Linear(4 * 8 * 8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.fc(torch.relu(self.conv(x)).flatten(1))
        return y


class TwoHeads(nn.Module):
    """Integer tokens to a class and a score for each: [batch, 6] i64 -> [batch, 3], [batch, 6]."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(11, 8)
        self.classes, self.scores = nn.Linear(8, 3), nn.Linear(8, 1)

    def forward(self, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.embedding(tokens)
        return {"classes": self.classes(x.mean(1)), "scores": self.scores(x).squeeze(2)}


def compile_for(target: TvmCpu, program: Program, directory: Path) -> dict[str, Any]:
    """Lower into `directory` and return the facts."""
    if importlib.util.find_spec("tvm") is None:
        pytest.skip("Apache TVM is not installed")
    if find_toolchain(target.machine.triple) is None:
        pytest.skip(f"no linker for {target.machine.triple.name}")
    return dict(target.lower(program, directory, PassContext()).facts)


def arm_runner(directory: Path, facts: dict[str, Any]) -> ProcessRunner:
    """The runner that executes model.so itself; skips where this machine has none."""
    runner = find_runners(directory, facts)[0]
    if runner.note:
        pytest.skip(runner.note)
    return runner


def qemu_command(runtime: str = "c") -> list[str]:
    """The emulator and the C++ runner, as a command to append arguments to; skips where one is missing."""
    try:
        program, cpu = emulator(machine("cortex-a72", "aarch64-linux-gnu"))
        runner = runner_program(TRIPLES["aarch64-linux-gnu"], runtime=runtime)
    except MissingToolError as error:
        pytest.skip(error.message)
    return [program, "-L", "/usr/aarch64-linux-gnu", "-cpu", cpu, "-E", f"LD_LIBRARY_PATH={runner.parent / 'lib'}", str(runner)]


def arrays(program: Program, tensors: Sequence[torch.Tensor]) -> dict[str, np.ndarray[Any, Any]]:
    """Inputs by name."""
    return {spec.name: t.numpy() for spec, t in zip(program.signature.inputs, tensors, strict=True)}


def largest_difference(program: Program, runner: ProcessRunner, *tensors: torch.Tensor) -> float:
    """Between the runner and PyTorch eager, over all outputs. Shapes and dtypes must be the same."""
    found, wanted = runner.run(arrays(program, tensors)), program(*tensors)
    assert list(found) == [spec.name for spec in program.signature.outputs]
    for array, tensor in zip(found.values(), wanted, strict=True):
        assert array.shape == tuple(tensor.shape)
        assert array.dtype == tensor.numpy().dtype
    return max(float(np.abs(a - t.numpy()).max()) for a, t in zip(found.values(), wanted, strict=True))
