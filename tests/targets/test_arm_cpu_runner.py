"""The device's runner, the program itself: what it reads and writes, and how it refuses."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from edgecc.ir.signature import Dim
from edgecc.targets.arm_cpu.target import ArmCpu
from edgecc.testing import trace_function
from tests.targets.cpu_host import SmallNet, compile_for, qemu_command

pytestmark = pytest.mark.slow


class Ended(NamedTuple):
    code: int
    output: str
    error: str


class Device:
    """A compiled model and the runner, with a folder for files. `example` is an input [2, 2, 8, 8]."""

    def __init__(self, folder: Path) -> None:
        self.command, self.folder = qemu_command(), folder
        torch.manual_seed(0)
        self.program = trace_function(SmallNet(), torch.randn(2, 2, 8, 8), dims={"x": {0: Dim("batch", 1, 4)}})
        compile_for(ArmCpu(), self.program, folder)
        self.example = torch.randn(2, 2, 8, 8)

    def run(self, *arguments: str) -> Ended:
        done = subprocess.run([*self.command, *arguments], cwd=self.folder, capture_output=True, text=True, check=False, timeout=60)
        return Ended(done.returncode, done.stdout, done.stderr)

    def refusal(self, array: np.ndarray) -> str:
        """The message for an input file of this content; the exit code must be 2."""
        np.save(self.folder / "bad.npy", array)
        return self.refused("model.so", "x=bad.npy")

    def refused(self, *arguments: str) -> str:
        ended = self.run(*arguments)
        assert ended.code == 2, ended
        assert ended.error.startswith("error: ")
        return ended.error


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Device:
    return Device(tmp_path_factory.mktemp("device"))


def test_it_reads_and_writes_npy_files_and_prints_the_latency(device: Device) -> None:
    np.save(device.folder / "x.npy", device.example.numpy())
    ended = device.run("model.so", "x=x.npy", "-o", "out", "-n", "3")
    assert ended.code == 0, ended
    assert ended.output.startswith("latency_ms median ")
    assert "runs 3 threads 1" in ended.output
    found = torch.from_numpy(np.load(device.folder / "out" / "output.npy"))
    torch.testing.assert_close(found, device.program(device.example)[0], rtol=0, atol=1e-5)  # 256 reassociated terms


def test_another_dtype_is_refused(device: Device) -> None:
    assert "bad.npy is float64, input x wants float32" in device.refusal(device.example.double().numpy())


def test_big_endian_data_is_refused(device: Device) -> None:
    assert "numpy type >f4" in device.refusal(device.example.numpy().astype(">f4"))


def test_another_rank_is_refused(device: Device) -> None:
    assert "has rank 2, input x wants [batch, 2, 8, 8]" in device.refusal(np.zeros((2, 2), np.float32))


def test_another_size_is_refused(device: Device) -> None:
    assert "has size 7 at axis 2, want 8" in device.refusal(np.zeros((2, 2, 7, 8), np.float32))


def test_a_batch_above_the_bound_is_refused(device: Device) -> None:
    assert "dimension batch is 5, the model was compiled for 1..4" in device.refusal(np.zeros((5, 2, 8, 8), np.float32))


def test_fortran_order_is_refused(device: Device) -> None:
    assert "Fortran order" in device.refusal(np.asfortranarray(device.example.numpy()))


def test_a_missing_file_a_cut_one_and_an_unknown_input_are_refused(device: Device) -> None:
    np.save(device.folder / "x.npy", device.example.numpy())
    (device.folder / "cut.npy").write_bytes((device.folder / "x.npy").read_bytes()[:-1])
    (device.folder / "tiny.npy").write_bytes(b"\x93NUMPY\x01")
    assert "cannot read nothing.npy" in device.refused("model.so", "x=nothing.npy")
    assert "holds 1023 bytes of data, input x wants 1024" in device.refused("model.so", "x=cut.npy")
    assert "damaged" in device.refused("model.so", "x=tiny.npy")
    assert "the model has no input y" in device.refused("model.so", "x=x.npy", "y=x.npy")
    assert "input x is missing" in device.refused("model.so")
    assert "no model other.so" in device.refused("other.so")
    assert "-n wants a positive number, not 0" in device.refused("model.so", "x=x.npy", "-n", "0")


def test_raw_data_is_read_where_the_shape_is_fixed(device: Device, tmp_path: Path) -> None:
    program = trace_function(SmallNet(), torch.randn(1, 2, 8, 8))
    compile_for(ArmCpu(), program, tmp_path)
    x = torch.randn(1, 2, 8, 8)
    (tmp_path / "x.bin").write_bytes(x.numpy().tobytes())
    ended = device.run(str(tmp_path / "model.so"), f"x={tmp_path}/x.bin", "-o", str(tmp_path / "out"))
    assert ended.code == 0, ended
    np.testing.assert_allclose(np.load(tmp_path / "out" / "output.npy"), program(x)[0].numpy(), rtol=0, atol=1e-5)  # as above


def test_raw_data_is_refused_where_the_shape_is_dynamic(device: Device) -> None:
    (device.folder / "x.bin").write_bytes(device.example.numpy().tobytes())
    assert "raw data has no shape for x [batch, 2, 8, 8]" in device.refused("model.so", "x=x.bin")


def test_an_instruction_that_the_cpu_lacks_ends_with_an_explanation(device: Device, tmp_path: Path) -> None:
    compiler = shutil.which("aarch64-linux-gnu-gcc")
    if compiler is None:
        pytest.skip("aarch64-linux-gnu-gcc is not installed")
    source = tmp_path / "model.c"
    source.write_text('__attribute__((constructor)) static void start(void) { __asm__("udf #0"); }')
    subprocess.run([compiler, "-shared", "-o", tmp_path / "model.so", source], check=True)
    shutil.copy(device.folder / "model.txt", tmp_path / "model.txt")
    ended = device.run(str(tmp_path / "model.so"), "x=x.npy")
    assert ended.code == 3
    assert "this CPU lacks an instruction" in ended.error
