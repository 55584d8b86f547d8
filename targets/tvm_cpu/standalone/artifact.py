"""Artifact: what lies beside model.so for whoever calls it: the static library, the header, an example, and how to build it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from string import Template

from edgecc.targets.tvm_cpu.interface import Interface
from edgecc.targets.tvm_cpu.machines import Machine
from edgecc.targets.tvm_cpu.standalone.library import SOURCES

ARCHIVE = "model.a"
_ANDROID = """
With the Android NDK:

    aarch64-linux-android21-clang -O2 -Iinclude example.c model.a -o example -lm
"""


def write_files(directory: Path, machine: Machine, interface: Interface, symbol: str, memory: Mapping[str, int]) -> None:
    """Write include/edgecc_model.h, example.c, edgecc_model.py and README.txt. `memory`: the facts of the plan."""
    (directory / "include").mkdir()
    shutil.copyfile(SOURCES / "edgecc_model.h", directory / "include" / "edgecc_model.h")
    shutil.copyfile(SOURCES / "edgecc_model.py", directory / "edgecc_model.py")
    (directory / "example.c").write_text((SOURCES / "example.c").read_text().replace("compiled_model", symbol))
    ports = [*(f"    in   {p}" for p in interface.inputs), *(f"    out  {p}" for p in interface.outputs)]
    ports += [f"    {name} is {lower}..{upper}" for name, (lower, upper) in interface.dims.items()]
    text = Template((SOURCES / "README.txt").read_text()).substitute(
        cpu=machine.cpu.name,
        triple=machine.triple.name,
        ports="\n".join(ports),
        symbol=symbol,
        cc=f"{machine.triple.gnu}-gcc" if machine.triple.gnu else "aarch64-linux-android21-clang",
        musl=_musl(machine),
        android=_ANDROID if machine.cpu.arch == "aarch64" and not machine.triple.stubs else "",
        arena=memory["arena_bytes"],
    )
    (directory / "README.txt").write_text(text)


def _musl(machine: Machine) -> str:
    suffix = "eabihf" if machine.cpu.arch == "armv7l" else ""
    return f"{'arm' if suffix else machine.cpu.arch}-linux-musl{suffix}"
