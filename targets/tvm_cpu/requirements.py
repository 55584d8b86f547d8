"""What compiling for a CPU and verifying it need, found or not, each with the line that installs it."""

from __future__ import annotations

from pathlib import Path

from edgecc.errors import MissingToolError
from edgecc.targeting.base import Requirement
from edgecc.targeting.packages import installed
from edgecc.targets.tvm_cpu.device_runtime import fetch_line, find_runtime
from edgecc.targets.tvm_cpu.linker import find_toolchain
from edgecc.targets.tvm_cpu.machines import Machine
from edgecc.targets.tvm_cpu.runners import emulator
from edgecc.targets.tvm_cpu.versions import FFI, INSTALL, TVM


def find_requirements(built: Machine, runtime: str = "c", root: Path | None = None, path: str | None = None) -> list[Requirement]:
    """`runtime`: what executes the model, `c` or `vm`; `root`: the device's TVM runtime, where it is not in the user's
    cache; `path`: where programs are searched for.
    """
    tools = find_toolchain(built.triple, path)
    found = [
        _package("apache-tvm", TVM, "lowers and builds the model"),
        _package("apache-tvm-ffi", FFI, "binds TVM; newer ones crash it"),
        Requirement(f"C compiler for {built.triple.name}", tools.name if tools else "", "builds model.so", built.triple.install),
    ]
    if built.is_this_machine():
        return found
    if built.triple.emulator:
        found.append(_emulator(built, path))
    if runtime == "vm":
        found.append(_device_runtime(built, root))
    return found


def _package(name: str, want: str, purpose: str) -> Requirement:
    version = installed(name)
    wrong = f" ({version} is installed, want {want})" if version not in ("", want) else ""
    return Requirement(name, version if version == want else "", purpose + wrong, INSTALL)


def _emulator(built: Machine, path: str | None) -> Requirement:
    purpose = f"verifies the {built.cpu.arch} binary here; without it a build for this machine is verified"
    name = built.triple.emulator
    try:
        program, cpu = emulator(built, path)
    except MissingToolError as error:
        return Requirement(name, "", f"{purpose} ({error.message})", error.hint, required=False)
    return Requirement(name, f"{program} -cpu {cpu}", purpose, "sudo apt-get install qemu-user", required=False)


def _device_runtime(built: Machine, root: Path | None) -> Requirement:
    device = None if built.triple.stubs else find_runtime(built.cpu.arch, root)
    purpose = "runs the deployed binary, on the device and in the emulator"
    name = f"TVM runtime for {built.triple.name}"
    return Requirement(name, str(device.root) if device else "", purpose, _runtime_line(built), required=False)


def _runtime_line(built: Machine) -> str:
    return f"build TVM {TVM} for Android from source" if built.triple.stubs else fetch_line(built.cpu.arch)
