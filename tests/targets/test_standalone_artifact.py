"""The artifact that needs no runtime: its files, its size, and its example on ARM with and without a C library beside it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgecc.errors import MissingToolError
from edgecc.ir.program import Program
from edgecc.targets.arm_cpu.target import ArmCpu
from edgecc.targets.tvm_cpu.linker import zig_toolchain
from edgecc.targets.tvm_cpu.machines import TRIPLES, machine
from edgecc.targets.tvm_cpu.runners import emulator
from edgecc.targets.tvm_cpu.standalone import library
from edgecc.targets.x86_cpu.target import X86Cpu
from edgecc.testing import trace_function
from tests.targets.cpu_host import SmallNet, compile_for

pytestmark = pytest.mark.slow


class Head(nn.Module):
    """x [batch, 24] f32 -> its class [batch] i64 and its scores [batch, 4] f32."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(24, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scores = torch.tanh(self.linear(x))
        return scores.argmax(-1), scores


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Program, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("arm")
    program = trace_function(Head(), torch.randn(2, 24))
    facts = compile_for(ArmCpu(), program, folder)
    torch.manual_seed(3)
    torch.randn(2, 24).numpy().tofile(folder / "x.bin")
    return folder, program, facts


def emulated(*, sysroot: bool) -> list[str]:
    built = machine("cortex-a72", "aarch64-linux-gnu")
    try:
        program, cpu = emulator(built)
    except MissingToolError as error:
        pytest.skip(error.message)
    return [program, "-cpu", cpu, *(["-L", built.triple.sysroot] if sysroot else [])]


def readme_line(folder: Path, start: str) -> list[str]:
    """The line of README.txt that builds the example with this compiler."""
    (line,) = [line.split() for line in (folder / "README.txt").read_text().splitlines() if line.strip().startswith(start)]
    return [sys.executable if word == "python" else word for word in line]


def check_example(arm: tuple[Path, Program, Any], command: list[str], run: list[str]) -> None:
    folder, program, _ = arm
    subprocess.run(command, cwd=folder, check=True)
    done = subprocess.run([*run, "./example", "2", "x.bin"], cwd=folder, capture_output=True, text=True, check=True)
    classes, scores = program(torch.from_numpy(np.fromfile(folder / "x.bin", np.float32).reshape(2, 24)))
    first, second = done.stdout.splitlines()
    assert [int(word) for word in first.split()[1:]] == classes.tolist()
    np.testing.assert_allclose([float(word) for word in second.split()[1:]], scores.detach().flatten(), atol=1e-5)  # printed with 6 digits


def test_the_example_builds_with_the_line_of_the_readme_and_runs_under_the_emulator(arm: tuple[Path, Program, Any]) -> None:
    if shutil.which("aarch64-linux-gnu-gcc") is None:
        pytest.skip("aarch64-linux-gnu-gcc is not installed")
    check_example(arm, readme_line(arm[0], "aarch64-linux-gnu-gcc"), emulated(sysroot=True))


def test_a_static_musl_program_runs_with_no_library_at_all(arm: tuple[Path, Program, Any]) -> None:
    if zig_toolchain(TRIPLES["aarch64-linux-gnu"]) is None:
        pytest.skip("ziglang is not installed")
    check_example(arm, readme_line(arm[0], "python -m ziglang"), emulated(sysroot=False))


def test_the_android_library_needs_androids_c_library_only(tmp_path: Path) -> None:
    compile_for(ArmCpu(cpu="cortex-a78", triple="aarch64-linux-android"), trace_function(Head(), torch.randn(2, 24)), tmp_path)
    dynamic = subprocess.run(["readelf", "-d", tmp_path / "model.so"], capture_output=True, text=True, check=True).stdout
    needed = [line.rpartition("[")[2].strip("]") for line in dynamic.splitlines() if "NEEDED" in line]
    assert set(needed) <= {"libm.so", "libc.so"}
    assert "aarch64-linux-android21-clang" in (tmp_path / "README.txt").read_text()


def test_the_facts_have_the_memory_plan_and_the_c_name(tmp_path: Path) -> None:
    facts = compile_for(ArmCpu(), trace_function(SmallNet(), torch.randn(2, 2, 8, 8)), tmp_path)
    assert (facts["runtime"], facts["symbol"]) == ("c", "compiled_model")
    assert 0 < facts["memory"]["live_bytes"] <= facts["memory"]["arena_bytes"]
    assert f" {facts['memory']['arena_bytes']}\nbytes that the caller provides" in (tmp_path / "README.txt").read_text()


def test_the_model_has_the_name_that_was_asked_for(tmp_path: Path) -> None:
    compile_for(X86Cpu(cpu="x86-64-v2", symbol="keyword_spotter"), trace_function(Head(), torch.randn(2, 24)), tmp_path)
    assert "extern const edgecc_model keyword_spotter;" in (tmp_path / "example.c").read_text()
    symbols = subprocess.run(["nm", "-D", "--defined-only", tmp_path / "model.so"], capture_output=True, text=True, check=True).stdout
    names = {line.split()[2] for line in symbols.splitlines()}
    assert "keyword_spotter" in names
    assert all(name == "keyword_spotter" or name.startswith("edgecc_") for name in names)


def test_the_library_of_an_mlp_is_at_most_100_kb_above_its_weights_which_cannot_be_written(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(384, 1536), nn.GELU(), nn.Linear(1536, 384), nn.LayerNorm(384))
    weights = sum(p.numel() * 4 for p in model.parameters())
    compile_for(ArmCpu(), trace_function(model, torch.randn(128, 384)), tmp_path)
    assert (tmp_path / "model.so").stat().st_size - weights <= 100_000
    headers = subprocess.run(["readelf", "-lW", tmp_path / "model.so"], capture_output=True, text=True, check=True).stdout
    loaded = [line.split() for line in headers.splitlines() if line.split()[:1] == ["LOAD"]]
    assert sum(int(words[5], 16) for words in loaded if "W" in "".join(words[6:-1])) <= 20_000
    assert sum(int(words[5], 16) for words in loaded) > weights


def test_the_python_program_of_the_artifact_runs_by_itself(tmp_path: Path) -> None:
    target = X86Cpu(cpu="x86-64-v2")
    if not target.machine.is_this_machine():
        pytest.skip("this is no x86-64 Linux machine")
    program = trace_function(Head(), torch.randn(2, 24))
    compile_for(target, program, tmp_path)
    x = torch.randn(2, 24)
    np.save(tmp_path / "x.npy", x.numpy())
    command = [sys.executable, "-I", "-W", "error", "edgecc_model.py", "model.so", "x=x.npy", "-o", "out", "-n", "3", "-t", "2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("latency_ms median ")
    name = program.signature.outputs[1].name
    np.testing.assert_allclose(np.load(tmp_path / "out" / f"{name}.npy"), program(x)[1].detach(), rtol=0, atol=1e-6)  # 24 terms
    np.save(tmp_path / "x.npy", x[:1].numpy())
    refused = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stderr) == (2, "error: x has size 1 at axis 0, want 2\n")


def test_the_runtime_compiles_without_a_warning() -> None:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    flags = ["-std=c11", "-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-fsyntax-only"]
    subprocess.run(["gcc", *flags, library.SOURCES / "edgecc_runtime.c"], check=True)
    subprocess.run(["gcc", *flags[:4], "-Werror", "-fsyntax-only", "-D_GNU_SOURCE", library.SOURCES / "example.c"], check=True)
    header = f'#include "{library.SOURCES / "edgecc_model.h"}"\nint main() {{ return edgecc_model_inputs(nullptr); }}\n'
    subprocess.run(["g++", "-std=c++11", *flags[1:], "-x", "c++", "-"], input=header, text=True, check=True)
