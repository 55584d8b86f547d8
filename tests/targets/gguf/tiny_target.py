"""A target for the tests of the command line, loaded by --load: its artifact is a tiny GGUF file, whatever the model is.

The factories make PyTorch modules with the weights of such files, so that verification has something to compare.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from edgecc import Capabilities, Lowered, Target
from edgecc.targets.gguf.runtime import hooks
from edgecc.targets.gguf.runtime.runner import requirement, runners
from tests.targets.gguf import tiny_gguf

KINDS = {
    "bytes": lambda path: tiny_gguf.llama(path, tokenizer=True),
    "long": lambda path: tiny_gguf.llama(path, tokenizer=True, context=1 << 17),
    "words": tiny_gguf.llama,
    "encoder": tiny_gguf.bert,
}


@dataclass(frozen=True)
class TinyTarget(Target):
    """llama.cpp on this machine. `kind` says which file is written."""

    name = "tiny_gguf"
    kind: str = "bytes"

    @property
    def tolerance(self):
        return 1e-2 if self.kind == "encoder" else None  # ggml's GELU is a table of F16

    def pipeline(self):
        return "normalize:"

    def capabilities(self):
        return Capabilities(frozenset({torch.float32, torch.float64, torch.int64, torch.bool}), lambda node: None)

    def requirements(self):
        return [requirement()]

    def lower(self, program, directory, context):
        KINDS[self.kind](directory / "model.gguf")
        (ids,), (output,) = program.signature.inputs, program.signature.outputs
        kind = "encoder" if self.kind == "encoder" else "decoder"
        return Lowered("model.gguf", {"gguf": {"kind": kind, "ids": ids.name, "mask": "", "output": output.name}})

    def runners(self, directory, manifest):
        return runners(directory, manifest)

    def generate(self, directory, manifest, request):
        return hooks.generate(directory, manifest, request)

    def token_speed(self, directory, manifest, threads, seconds):
        return hooks.speed(directory, manifest, threads, seconds)


class Sequence(nn.Module):
    """The eager forward of a tiny model on a batch of one. ids [1, n] -> [1, n, vocab or width]."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        with tempfile.TemporaryDirectory() as folder:
            self.tiny = KINDS[kind](Path(folder) / "model.gguf")

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.tiny.forward(ids[0])[None].float()


def bytes_model():
    return Sequence("bytes"), (torch.tensor([[3, 1, 4, 1, 5]]),)


def long_model():
    return Sequence("long"), (torch.tensor([[3, 1, 4, 1, 5]]),)


def words_model():
    return Sequence("words"), (torch.tensor([[3, 1, 4, 1, 5]]),)


def encoder_model():
    return Sequence("encoder"), (torch.tensor([[3, 1, 4, 1, 5]]),)
