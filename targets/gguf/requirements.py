"""What compiling for llama.cpp needs beside edgecc itself."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence

from edgecc.targeting.base import Requirement
from edgecc.targets.gguf.runtime.runner import requirement


def requirements() -> Sequence[Requirement]:
    return [
        _package("gguf", "the decoders of block formats, to compare with what was written"),
        _package("tokenizers", "the tokenizer of a Hugging Face directory"),
        requirement(),
    ]


def _package(name: str, purpose: str) -> Requirement:
    try:
        found = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        found = ""
    return Requirement(name, found, purpose, "pip install 'edgecc[gguf]'")
