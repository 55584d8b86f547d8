"""Build integer programs for a CPU and run them on it, or on its emulator: every code must be PyTorch's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgecc.ir.integer import CODES, fixed_point, integer
from edgecc.ir.program import Program
from edgecc.targets.tvm_cpu.build import build_standalone, legalize_once
from edgecc.targets.tvm_cpu.interface import FILE, Interface
from edgecc.targets.tvm_cpu.linker import toolchain
from edgecc.targets.tvm_cpu.lowering import lower, refuse
from edgecc.targets.tvm_cpu.machines import Machine, machine
from edgecc.targets.tvm_cpu.runners import ProcessRunner, _emulated, own_command
from edgecc.testing import trace_function

ARM = ("cortex-a72", "cortex-a76", "neoverse-n2")  # smlal, sdot, smmla
X86 = tuple(
    name for name in ("x86-64-v2", "x86-64-v3", "x86-64-v4", "cascadelake", "znver4") if machine(name, "x86_64-linux-gnu").is_this_machine()
)
CPUS = (*X86, *ARM)
UNSIGNED = ("cascadelake", "znver4")


def machine_of(cpu: str) -> Machine:
    return machine(cpu, "aarch64-linux-gnu" if cpu in ARM else "x86_64-linux-gnu")


def dtype_for(cpu: str) -> torch.dtype:
    """What codes are stored in for a CPU."""
    return torch.uint8 if cpu in UNSIGNED else torch.int8


def run(program: Program, cpu: str, cases: Sequence[Sequence[torch.Tensor]], folder: Path) -> tuple[list[list[torch.Tensor]], list[str]]:
    """The outputs for each case, and the rules that made the kernels."""
    refused = {str(n.target): refuse(n) for n in program.calls() if refuse(n)}
    assert not refused, refused
    built = machine_of(cpu)
    ports = Interface.of(program.signature, cpu)
    (folder / FILE).write_text(ports.text())
    module = legalize_once(lower(program))
    _, choices = build_standalone(module, built, toolchain(built.triple), ports, "compiled_model", folder / "model.so")
    if built.cpu.arch == "x86_64":
        runner = ProcessRunner("here", own_command("c"), folder / "model.so", ports, 1)
    else:
        runner = _emulated(built, "c", folder, ports, 1, None, None)
    names = [spec.name for spec in program.signature.inputs]
    outputs = runner.run_many([dict(zip(names, [x.numpy() for x in case], strict=True)) for case in cases])
    return [[torch.from_numpy(np.asarray(v)) for v in found.values()] for found in outputs], [c.rule for c in choices]


def check(model: nn.Module, cpu: str, cases: Sequence[Sequence[torch.Tensor]], folder: Path) -> list[str]:
    """Every output of every case is that of the program in PyTorch, bit for bit; the rules of the kernels."""
    program = trace_function(model, *cases[0])
    outputs, rules = run(program, cpu, cases, folder)
    for case, found in zip(cases, outputs, strict=True):
        for number, (got, want) in enumerate(zip(found, program(*case), strict=True)):
            assert got.dtype == want.dtype and got.shape == want.shape
            wrong = int((got != want).sum())
            assert not wrong, f"{cpu}: output {number} differs at {wrong} of {want.numel()} places"
    return rules


def codes(*shape: int, seed: int = 0, dtype: torch.dtype = torch.int8) -> torch.Tensor:
    """Random codes with many of the smallest and the largest."""
    generator = torch.Generator().manual_seed(seed + sum(shape))
    low, high = CODES[dtype]
    x = torch.randint(low, high + 1, shape, generator=generator)
    kind = torch.randint(0, 8, shape, generator=generator)
    return torch.where(kind == 0, low, torch.where(kind == 1, high, x)).to(dtype)


def weights(*shape: int, seed: int = 0) -> torch.Tensor:
    return codes(*shape, seed=seed).clamp(min=-127)


class Requantized(nn.Module):
    """Sums over `depth` products as codes that use the whole range. `axis`: of the channels, 0 of them for one scale."""

    def __init__(self, channels: int, depth: int, axis: int, dtype: torch.dtype, low: int | None = None) -> None:
        super().__init__()
        spread = torch.rand([channels] if channels else [], generator=torch.Generator().manual_seed(channels), dtype=torch.float64) + 0.5
        multiplier, self.shift = fixed_point(spread / (60.0 * max(depth, 1) ** 0.5))
        self.register_buffer("multiplier", multiplier)
        self.axis, self.dtype = axis, dtype
        self.zero = 3 + (128 if dtype == torch.uint8 else 0)
        least, self.high = CODES[dtype]
        self.low = least if low is None else self.zero + low

    def forward(self, sums: torch.Tensor) -> torch.Tensor:
        return integer.requantize(sums, self.multiplier, self.shift, self.axis, self.zero, self.low, self.high, self.dtype)
