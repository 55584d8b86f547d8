"""Wheel: where the installed xllamacpp keeps llama.cpp, and which build it is. Nothing is loaded or imported here."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from edgecc.errors import MissingToolError
from edgecc.targeting.packages import installed

INSTALL = "pip install 'edgecc[gguf]'"
TRIED = "2026.10.11549"
PACKAGE = "xllamacpp"


def runtime_name() -> str:
    """`llama.cpp b11549 (xllamacpp 2026.10.11549)`: a version is year, month and the build of llama.cpp."""
    found = installed(PACKAGE)
    year, *_, build = [*found.split(".")[:3], ""][:3]
    return f"llama.cpp {f'b{build} ' if len(year) == 4 else ''}({PACKAGE} {found})"


def shared_library() -> Path:
    """The file that exports llama.cpp's C functions. Raises MissingToolError where the wheel is missing or has none."""
    spec = importlib.util.find_spec(PACKAGE)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        raise MissingToolError("xllamacpp, which brings llama.cpp, is not installed", hint=INSTALL)
    found = sorted(file for suffix in (".so", ".pyd", ".dylib") for file in Path(folders[0]).glob(f"{PACKAGE}*{suffix}"))
    if not found:
        raise unknown_build("it holds no shared library")
    return found[0]


def unknown_build(why: str) -> MissingToolError:
    """The error for a wheel that is not as those that were tried."""
    return MissingToolError(f"xllamacpp {installed(PACKAGE)} cannot be used: {why}", hint=f"pip install 'xllamacpp=={TRIED}'")
