"""What compiling for llama.cpp needs beside edgecc itself."""

from __future__ import annotations

from collections.abc import Sequence

from edgecc.targeting.base import Requirement
from edgecc.targeting.packages import installed
from edgecc.targets.gguf.runtime.runner import requirement
from edgecc.targets.gguf.runtime.wheel import INSTALL


def requirements() -> Sequence[Requirement]:
    return [
        _package("gguf", "reads importance matrices (--imatrix)"),
        _package("tokenizers", "reads the tokenizer of a Hugging Face directory"),
        requirement(),
    ]


def _package(name: str, purpose: str) -> Requirement:
    return Requirement(name, installed(name), purpose, INSTALL, required=False)
