"""Build the program that times or counts a model of the C interface, and the command that runs it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from edgecc.errors import MissingToolError
from edgecc.targets.tvm_cpu.linker import toolchain
from edgecc.targets.tvm_cpu.machines import Triple
from edgecc.targets.tvm_cpu.standalone.library import SOURCES as INTERFACE

SOURCE = Path(__file__).parent / "driver.c"


def build_driver(model: Path, triple: Triple, folder: Path) -> Path:
    """Link driver.c with the library `model`, which stays where it is, into a program in `folder`.

    Raises MissingToolError where no compiler for the platform is there.
    """
    tools = toolchain(triple)
    program, library = folder / "driver", model.resolve()
    flags = [
        "-std=gnu11",
        "-O2",
        "-I",
        str(INTERFACE.resolve()),
        str(SOURCE),
        "-o",
        str(program),
        str(library),
        f"-Wl,-rpath,{library.parent}",
    ]
    done = subprocess.run([*tools.cc, *flags], cwd=folder, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        raise MissingToolError(f"{tools.name} could not build {SOURCE.name}:\n{done.stderr.strip()[-2000:]}", hint=triple.install)
    return program
