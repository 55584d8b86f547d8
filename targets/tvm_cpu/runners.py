"""Runners: the machine itself, an emulator, or a build for the host, each in a process of its own.

A process of its own, because a wrong kernel can crash it, and because a library that is loaded twice under one path in
one process is the first one.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import edgecc
from edgecc.errors import ContractError, MissingToolError, UsageError
from edgecc.targeting.base import Arrays, Runner
from edgecc.targeting.ending import ended_by
from edgecc.targeting.packages import installed
from edgecc.targets.tvm_cpu.device import runner_program
from edgecc.targets.tvm_cpu.interface import Interface
from edgecc.targets.tvm_cpu.machines import Machine, machine
from edgecc.targets.tvm_cpu.standalone import library
from edgecc.targets.tvm_cpu.versions import INSTALL

MODEL = "model.so"
HOST_MODEL = "host/model.so"


@dataclass(frozen=True)
class ProcessRunner(Runner):
    """`command` runs a model library on folders of cases. `seconds`: how long one case may take.

    `note` says what this runtime does not show, `""` where it is the real one.
    """

    runtime: str
    command: tuple[str, ...]
    model: Path
    interface: Interface
    threads: int = 1
    note: str = ""
    emulated: bool = False
    seconds: float = 600.0

    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        return self.run_many([inputs])[0]

    def run_many(self, cases: Sequence[Mapping[str, np.ndarray[Any, Any]]]) -> list[Arrays]:
        """Outputs for each of several cases, all in one process. Raises as `run` does."""
        bound = [self.interface.bind(case) for case in cases]
        with tempfile.TemporaryDirectory() as name:
            folders = [Path(name) / str(number) for number in range(len(bound))]
            for folder, arrays in zip(folders, bound, strict=True):
                folder.mkdir()
                for i, array in enumerate(arrays):
                    np.save(folder / f"input{i}.npy", array)
            self._execute(name, len(bound))
            return [self._outputs(folder) for folder in folders]

    def _execute(self, cases: str, count: int) -> None:
        command = [*self.command, str(self.model.resolve()), "--cases", cases, "-t", str(self.threads)]
        limit = self.seconds * max(count, 1)
        root = Path(edgecc.__file__).parents[1]  # so that `python -m edgecc...` is this edgecc
        try:
            done = subprocess.run(command, cwd=root, capture_output=True, timeout=limit, check=False)
        except subprocess.TimeoutExpired as error:
            raise ContractError(f"the model did not finish on {self.runtime} within {limit:g} s") from error
        if done.returncode:
            self._fail(done.returncode, done.stderr.decode(errors="replace").strip()[-2000:])

    def _fail(self, code: int, message: str) -> None:
        if code == 2:
            raise UsageError(f"{self.runtime} refused the inputs: {message}")
        ended = f"ended by {ended_by(code)}" if code < 0 else f"failed with exit code {code}"
        raise ContractError(f"the model {ended} on {self.runtime}{': ' if message else ''}{message}")

    def _outputs(self, folder: Path) -> Arrays:
        found = len(list(folder.glob("output*.npy")))
        return self.interface.name_outputs([np.load(folder / f"output{i}.npy") for i in range(found)])


def find_runners(directory: Path, facts: Mapping[str, Any], root: Path | None = None, path: str | None = None) -> list[ProcessRunner]:
    """The runtimes that can execute the artifact in `directory` here, the most faithful first.

    `facts`: those of `lower`. `root`: the device runtime, where it is not in the user's cache. `path`: where
    programs are searched for, the process's own search path if None. Raises MissingToolError where there is none.
    """
    built, runtime = machine(str(facts["cpu"]), str(facts["triple"])), str(facts.get("runtime", "vm"))
    interface, threads = Interface.read(directory), int(facts["threads"])
    runners: list[ProcessRunner] = []
    missing: list[MissingToolError] = []
    try:
        if built.is_this_machine():
            runners.append(ProcessRunner(f"native {_shown(built)}", own_command(runtime), directory / MODEL, interface, threads))
        else:
            runners.append(_emulated(built, runtime, directory, interface, threads, root, path))
    except MissingToolError as error:
        missing.append(error)
    host = facts.get("host")
    if host and (directory / HOST_MODEL).is_file():
        try:
            why = "; ".join(e.message for e in missing)
            runners.append(_host(machine(host["cpu"], host["triple"]), runtime, directory, interface, threads, why))
        except MissingToolError as error:
            missing.append(error)
    if not runners:
        raise MissingToolError(f"nothing here can run a model for {built.cpu.name}:\n" + "\n".join(map(str, missing)))
    return runners


def emulator(built: Machine, path: str | None = None) -> tuple[str, str]:
    """The emulator of a platform and the CPU it emulates: the nearest that it knows. Raises MissingToolError."""
    triple = built.triple
    if not triple.emulator:
        raise MissingToolError(f"nothing emulates {triple.name} here", hint="run it on a device; device/README.txt says how")
    program = shutil.which(triple.emulator, path=path)
    if program is None:
        raise MissingToolError(f"{triple.emulator} is not installed", hint="sudo apt-get install qemu-user")
    if not Path(triple.sysroot, "lib").is_dir():
        raise MissingToolError(f"the C library for {triple.name} is not in {triple.sysroot}", hint=sysroot_line(built))
    text = subprocess.run([program, "-cpu", "help"], capture_output=True, text=True, check=False).stdout
    known = {line.split()[0] for line in text.splitlines() if line.strip()}
    cpu = next((c for c in built.cpu.qemu if c.partition(",")[0] in known), "")
    if not cpu:
        raise MissingToolError(f"{program} cannot emulate {built.cpu.name}", hint="install a newer qemu")
    return program, cpu


def sysroot_line(built: Machine) -> str:
    """The line that installs the C and C++ libraries that programs of a platform run with under an emulator."""
    suffix = {"aarch64": "arm64", "armv7l": "armhf"}.get(built.cpu.arch, built.cpu.arch)
    return f"sudo apt-get install libc6-{suffix}-cross libstdc++6-{suffix}-cross"


def own_command(runtime: str) -> tuple[str, ...]:
    """The command that runs a model of this machine's; `runtime`: `c` or `vm`. Raises MissingToolError."""
    if runtime == "c":
        return (sys.executable, str(library.SOURCES.resolve() / "edgecc_model.py"))
    if not installed("apache-tvm") or not installed("apache-tvm-ffi"):
        raise MissingToolError("the TVM runtime of this machine is not installed", hint=INSTALL)
    return (sys.executable, "-m", "edgecc.targets.tvm_cpu.run_vm")


def _emulated(
    built: Machine, runtime: str, directory: Path, interface: Interface, threads: int, root: Path | None, path: str | None
) -> ProcessRunner:
    program, cpu = emulator(built, path)
    runner = runner_program(built.triple, root, path, runtime=runtime)
    libraries = ("-E", f"LD_LIBRARY_PATH={runner.parent / 'lib'}") if runtime == "vm" else ()
    command = (program, "-L", built.triple.sysroot, "-cpu", cpu, *libraries, str(runner))
    other = "" if cpu == built.cpu.name else f" (for {built.cpu.name})"
    return ProcessRunner(f"{built.triple.emulator} {cpu}{other}", command, directory / MODEL, interface, threads, emulated=True)


def _host(host: Machine, runtime: str, directory: Path, interface: Interface, threads: int, why: str) -> ProcessRunner:
    if not host.is_this_machine():
        raise MissingToolError(f"{HOST_MODEL} was built for {host.cpu.name}, which this machine is not")
    note = "the same program built for this machine ran, not the deployed binary" + (f": {why}" if why else "")
    return ProcessRunner(f"host {_shown(host)}", own_command(runtime), directory / HOST_MODEL, interface, threads, note)


def _shown(built: Machine) -> str:
    return built.cpu.arch.replace("_", "-")
