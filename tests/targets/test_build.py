"""Build: libraries for every machine of the table, the same bytes every time, with whichever linker is there."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from edgecc.errors import MissingToolError
from edgecc.targets.tvm_cpu.linker import Toolchain, find_toolchain, zig_toolchain
from edgecc.targets.tvm_cpu.machines import CPUS, TRIPLES, Machine, machine
from edgecc.targets.x86_cpu.target import X86Cpu
from edgecc.testing import trace_function
from tests.targets.cpu_host import SmallNet

_COMPILE = """
import sys
import torch
from pathlib import Path
from edgecc.pipeline.context import PassContext
from edgecc.targets.arm_cpu.target import ArmCpu
from edgecc.testing import trace_function
from tests.targets.cpu_host import SmallNet
torch.set_num_threads(int(sys.argv[2]))
program = trace_function(SmallNet(), torch.zeros(1, 2, 8, 8))
ArmCpu(threads=int(sys.argv[2])).lower(program, Path(sys.argv[1]), PassContext())
"""


def machines() -> list[Machine]:
    return [Machine(cpu, next(t for t in TRIPLES.values() if t.arch == cpu.arch)) for cpu in CPUS.values()]


@pytest.mark.slow
def test_two_processes_with_one_and_two_threads_write_the_same_bytes(tmp_path: Path) -> None:
    pytest.importorskip("tvm", reason="Apache TVM is not installed")
    if find_toolchain(TRIPLES["aarch64-linux-gnu"]) is None:
        pytest.skip("no linker for aarch64-linux-gnu")
    digests = []
    for threads in ("1", "2"):
        directory = tmp_path / f"with-{threads}"
        directory.mkdir()
        subprocess.run([sys.executable, "-c", _COMPILE, str(directory), threads], cwd=Path(__file__).parents[2], check=True)
        names = ("model.so", "model.txt", "host/model.so", "device/runner", "device/runner.cc")
        digests.append({n: hashlib.sha256((directory / n).read_bytes()).hexdigest() for n in names if (directory / n).exists()})
    assert digests[0] == digests[1]


@pytest.mark.slow
def test_llvm_knows_every_cpu_of_the_table(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tvm", reason="Apache TVM is not installed")
    from edgecc.targets.tvm_cpu.build import compile_objects, legalize_once
    from edgecc.targets.tvm_cpu.lowering import lower
    from edgecc.targets.tvm_cpu.schedule import schedule

    module = legalize_once(lower(trace_function(lambda x: x + 1, torch.zeros(4))))
    for built in machines():
        kernels, program = compile_objects(schedule(module, built)[0], built, tmp_path)
        assert kernels.read_bytes().startswith(b"\x7fELF")
        assert "__tvm_ffi__library_bin" in program.read_text()
    assert "not a recognized" not in capfd.readouterr().err  # what LLVM prints for a name that it ignores


@pytest.mark.slow
def test_zig_links_where_there_is_no_gnu_toolchain(tmp_path: Path) -> None:
    pytest.importorskip("tvm", reason="Apache TVM is not installed")
    tools = zig_toolchain(TRIPLES["aarch64-linux-gnu"])
    if tools is None:
        pytest.skip("ziglang is not installed")
    from edgecc.targets.tvm_cpu.build import build, legalize_once
    from edgecc.targets.tvm_cpu.lowering import lower

    module = legalize_once(lower(trace_function(SmallNet(), torch.zeros(1, 2, 8, 8))))
    build(module, machine("cortex-a72", "aarch64-linux-gnu"), tools, tmp_path / "model.so")
    library = (tmp_path / "model.so").read_bytes()
    assert library.startswith(b"\x7fELF\x02")
    assert b"__tvm_ffi__library_bin" in library


def test_a_linker_is_searched_on_the_given_path_only() -> None:
    for triple in TRIPLES.values():
        found = find_toolchain(triple, path="")
        assert found is None or found.name.startswith("zig ")


def test_every_platform_has_an_install_line_for_its_linker() -> None:
    assert all("pip install ziglang" in triple.install for triple in TRIPLES.values())


def test_a_linker_that_fails_is_reported_with_its_message(tmp_path: Path) -> None:
    tools = Toolchain("python", (sys.executable, "--no-such-option"), (), TRIPLES["aarch64-linux-gnu"])
    with pytest.raises(MissingToolError, match=r"python could not link for aarch64-linux-gnu:[\s\S]*unknown option"):
        tools.link_shared([], tmp_path / "model.so")


def test_every_cpu_names_what_emulates_it_or_is_an_x86() -> None:
    assert all(cpu.qemu or cpu.arch == "x86_64" for cpu in CPUS.values())


def test_targets_do_not_load_tvm_to_be_listed() -> None:
    code = "import sys, edgecc.targets.arm_cpu.target as t; t.ArmCpu().pipeline(); sys.exit('tvm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0


def test_the_pipeline_has_the_phases_that_every_target_has() -> None:
    phases = [phase.partition(":")[0].strip() for phase in X86Cpu().pipeline().split("|")]
    assert phases == ["normalize", "fuse", "legalize"]
