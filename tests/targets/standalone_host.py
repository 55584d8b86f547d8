"""What the tests of standalone artifacts share: build a program for this machine, and run it in a process of its own."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgecc.ir.program import Program
from edgecc.ir.signature import Dim
from edgecc.targets.tvm_cpu.interface import Interface
from edgecc.targets.tvm_cpu.linker import toolchain
from edgecc.targets.tvm_cpu.machines import Machine, host_machine, machine
from edgecc.targets.tvm_cpu.runners import ProcessRunner, own_command
from edgecc.testing import trace_function

C = Path(__file__).parent / "c"


class Pair(nn.Module):
    """Two inputs, of which one is integer; five outputs: a value, its reshape, an input, the value again, a constant."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.embedding = nn.Linear(24, 16), nn.Embedding(10, 24)
        self.register_buffer("scale", torch.arange(3.0))

    def forward(self, x: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = torch.relu(self.linear(x + self.embedding(tokens)))
        return y, y.reshape(-1, 8), x, y, self.scale, y.sum(-1)


def pair(dynamic: bool = False) -> Program:
    """`Pair` for x [batch, 24] f32 and tokens [batch] i64, batch 6 or 1..6."""
    torch.manual_seed(1)
    example = torch.randn(6, 24), torch.randint(0, 10, (6,))
    batch = Dim("batch", 1, 6)
    return trace_function(Pair(), *example, dims={"x": {0: batch}, "tokens": {0: batch}} if dynamic else None)


def here() -> Machine:
    pytest.importorskip("tvm", reason="Apache TVM is not installed")
    found = host_machine()
    if found is None or found.cpu.arch != "x86_64":
        pytest.skip("this is no x86-64 Linux machine")
    return machine("x86-64-v2", "x86_64-linux-gnu")  # valgrind knows no newer instructions everywhere


def objects(program: Program, folder: Path, built: Machine, symbol: str = "compiled_model") -> Any:
    """Objects, sources and libraries of a program in `folder`: model.so and model.a beside them."""
    import tvm

    from edgecc.targets.tvm_cpu.build import legalize_once
    from edgecc.targets.tvm_cpu.lowering import lower
    from edgecc.targets.tvm_cpu.schedule import schedule
    from edgecc.targets.tvm_cpu.standalone import library

    folder.mkdir(parents=True, exist_ok=True)
    target, tools = tvm.target.Target(built.llvm_target), toolchain(built.triple)
    interface = Interface.of(program.signature, built.cpu.name)
    kernels, _ = schedule(legalize_once(lower(program)), built)
    made = library.compile_objects(kernels, target, interface, tools, symbol, folder)
    library.link_shared(made, tools, folder / "model.so")
    library.link_static(made, tools, folder / "model.a")
    return made


def runner(program: Program, library: Path, threads: int = 1) -> ProcessRunner:
    """What runs a model.so of this machine, in Python."""
    return ProcessRunner("here", own_command("c"), library, Interface.of(program.signature, "x86-64-v2"), threads)


def c_program(folder: Path, sources: Sequence[Path | str], *flags: str, compiler: str = "gcc") -> Path:
    """Compile and link C sources against what `objects` left in `folder`."""
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    command = [compiler, "-std=gnu11", "-g", "-Wall", "-Werror", f"-I{folder}", *flags, *map(str, sources), "-o", str(folder / "program")]
    done = subprocess.run([*command, "-lm", "-lpthread"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "program"


def write_raw(folder: Path, inputs: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]) -> None:
    """input0.bin, ..., output0.bin, ...: raw data."""
    for kind, tensors in (("input", inputs), ("output", outputs)):
        for i, tensor in enumerate(tensors):
            np.ascontiguousarray(tensor.detach().numpy()).tofile(folder / f"{kind}{i}.bin")
