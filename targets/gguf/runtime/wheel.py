"""Wheel: where the installed xllamacpp keeps llama.cpp, and which build it is. Nothing is loaded or imported here."""

from __future__ import annotations

import importlib.util
from importlib import metadata
from pathlib import Path

from edgecc.errors import MissingToolError

INSTALL = "pip install 'edgecc[gguf]'"
TRIED = "2026.10.11549"
_PACKAGE = "xllamacpp"


def version() -> str:
    """The installed version of xllamacpp, `""` where it is not installed."""
    try:
        return metadata.version(_PACKAGE)
    except metadata.PackageNotFoundError:
        return ""


def runtime_name() -> str:
    """`llama.cpp b11549 (xllamacpp 2026.10.11549)`: a version is year, month and the build of llama.cpp."""
    found = version()
    year, *_, build = [*found.split(".")[:3], ""][:3]
    return f"llama.cpp {f'b{build} ' if len(year) == 4 else ''}({_PACKAGE} {found})"


def shared_library() -> Path:
    """The file that exports llama.cpp's C functions. Raises MissingToolError where the wheel is missing or has none."""
    spec = importlib.util.find_spec(_PACKAGE)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        raise MissingToolError("xllamacpp, which brings llama.cpp, is not installed", hint=INSTALL)
    found = sorted(file for pattern in ("*.so", "*.pyd", "*.dylib") for file in Path(folders[0]).glob(f"{_PACKAGE}*{pattern[1:]}"))
    if not found:
        raise unknown_build("it holds no shared library")
    return found[0]


def unknown_build(why: str) -> MissingToolError:
    """The error for a wheel that is not as those that were tried."""
    return MissingToolError(f"xllamacpp {version()} cannot be used: {why}", hint=f"pip install 'xllamacpp=={TRIED}'")
