"""Reproducer: what a bug report about an internal error needs, in one directory."""

from __future__ import annotations

import hashlib
import json
import platform
import shlex
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgecc.targeting.packages import installed

if TYPE_CHECKING:
    from edgecc.ir.program import Program

PACKAGES = ("edgecc", "torch", "numpy", "apache-tvm", "transformers")


def write(words: Sequence[str], error: BaseException, program: Program | None) -> Path:
    """Write `edgecc-crash-<hash>/` here, or in the temporary folder where this one cannot be written.

    It holds command.txt, versions.json, traceback.txt and, where a model was traced, the last good program as
    program.pt2 and program.ir. The same failure gives the same name.
    """
    trace = "".join(traceback.format_exception(error))
    name = "edgecc-crash-" + hashlib.sha256("\0".join([*words, trace]).encode()).hexdigest()[:8]
    directory = _folder(name)
    (directory / "command.txt").write_text(shlex.join(["edgecc", *words]) + "\n")
    (directory / "versions.json").write_text(json.dumps(_versions(), indent=2) + "\n")
    (directory / "traceback.txt").write_text(trace)
    if program is not None:
        _write_program(directory, program)
    return directory


def _folder(name: str) -> Path:
    try:
        directory = Path(name)
        directory.mkdir(exist_ok=True)
    except OSError:
        directory = Path(tempfile.mkdtemp(prefix=name + "-"))
    return directory


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "platform": platform.platform()}
    return found | {package: installed(package) or "not installed" for package in PACKAGES}


def _write_program(directory: Path, program: Program) -> None:
    from edgecc.ir import archive
    from edgecc.ir.text import to_text

    try:
        (directory / "program.ir").write_text(f"# program.pt2\n{to_text(program)}")
        archive.save(program, directory / "program.pt2")
    except Exception:  # noqa: BLE001  a program that broke edgecc may break its writers too; the report says so
        (directory / "program.txt").write_text("the program could not be saved:\n" + traceback.format_exc())
