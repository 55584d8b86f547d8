"""Saved programs on the command line: a `.pt2`, an `.ir` that names its `.pt2`, or a run directory with `ir/`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgecc.errors import UsageError

if TYPE_CHECKING:
    from edgecc.ir.program import Program


def load_program(path: Path) -> Program:
    """Raises UsageError for what is no saved program, RefusedError for an archive whose loading would run code."""
    from edgecc.ir import archive

    return archive.load(archive_of(path))


def archive_of(path: Path) -> Path:
    """The `.pt2` file that a path stands for; of a run directory, the last one of its dump."""
    if path.is_dir():
        dumps = sorted((path / "ir").glob("*.pt2")) or sorted(path.glob("[0-9]*-*.pt2"))
        if not dumps:
            raise UsageError(f"{path} holds no dumped program", hint="edgecc compile ... --dump-ir writes ir/NN-pass.pt2")
        return dumps[-1]
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    return _named_archive(path) if path.suffix == ".ir" else path


def _named_archive(path: Path) -> Path:
    with path.open(errors="replace") as lines:
        first = lines.readline().strip()
    name = first.removeprefix("# ")
    if not first.startswith("# ") or not name.endswith(".pt2"):
        raise UsageError(f"{path} does not name its program: the first line is {first!r}, want '# NAME.pt2'", hint="pass the .pt2 itself")
    found = path.parent / name
    if not found.is_file():
        raise UsageError(f"{path} names {name}, which is not beside it", hint="copy the .pt2 along with the .ir")
    return found
