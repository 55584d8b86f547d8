"""LlamaCppRunner: the inputs and outputs of manifest.json, run by llama.cpp.

manifest.json says under `facts.gguf` what they mean: `kind`, decoder or encoder; `ids` and `mask`, the names of the inputs,
`""` where there is no mask; `output`; and, optionally, `fixed`, the inputs that llama.cpp takes no values for: `types`, which are
0 for every token, and `positions`, which count from 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgecc.errors import ContractError, UsageError
from edgecc.targeting.base import Arrays, Requirement, Runner
from edgecc.targeting.packages import installed
from edgecc.targets.gguf.runtime.llama_cpp import LlamaCpp
from edgecc.targets.gguf.runtime.wheel import INSTALL, PACKAGE, runtime_name, shared_library

Array = np.ndarray[Any, Any]
MODEL = "model.gguf"
_DTYPES: Mapping[str, Any] = {"float16": np.float16, "float64": np.float64}  # float32 stands for the rest, also for bfloat16


@dataclass(frozen=True)
class Meaning:
    """What the inputs and the output are; `facts.gguf` of a manifest. Raises ContractError for a manifest that is damaged."""

    kind: str
    ids: str
    output: str
    mask: str = ""
    fixed: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, manifest: Mapping[str, Any]) -> Meaning:
        facts = manifest["facts"].get("gguf")
        try:
            meaning = cls(**{key: facts[key] for key in cls.__dataclass_fields__ if key in facts})
        except TypeError as error:
            raise ContractError(f"facts.gguf of the manifest is {facts!r}: {error}", hint="compile the model again") from error
        if meaning.kind not in ("decoder", "encoder"):
            raise ContractError(f"facts.gguf.kind is {meaning.kind!r}, want decoder or encoder", hint="compile the model again")
        return meaning


class LlamaCppRunner(Runner):
    """A GGUF file in llama.cpp on this machine's CPU. Raises MissingToolError where xllamacpp is not installed.

    Each row of the ids is a sequence of its own. A decoder's output of the rank of the ids has the logits of the last token, an
    encoder's the embedding that the file pools. A mask must be ones, then zeros: llama.cpp computes nothing where it is zero, and
    those places of the output are zeros.
    """

    def __init__(self, model: Path, manifest: Mapping[str, Any], threads: int = 1) -> None:
        shared_library()
        self.runtime = runtime_name()
        self.model, self.threads, self.meaning = model, threads, Meaning.read(manifest)
        ids = _find(manifest["inputs"], self.meaning.ids)
        output = _find(manifest["outputs"], self.meaning.output)
        self._dtype = _DTYPES.get(output["dtype"], np.float32)
        self._one_a_row = len(output["shape"]) == len(ids["shape"])

    def run(self, inputs: Mapping[str, Array]) -> Arrays:
        return self.run_many([inputs])[0]

    def run_many(self, cases: Sequence[Mapping[str, Array]]) -> list[Arrays]:
        """Outputs for each of several cases, all in one process that loads the file once."""
        lengths = [self._lengths(case) for case in cases]
        with LlamaCpp(self.model, threads=self.threads) as llama:
            return [self._run(llama, case, rows) for case, rows in zip(cases, lengths, strict=True)]

    def _run(self, llama: LlamaCpp, inputs: Mapping[str, Array], lengths: Sequence[int]) -> Arrays:
        given = inputs[self.meaning.ids]
        ids = np.atleast_2d(given)
        rows = [self._row(llama, row[:length]) for row, length in zip(ids, lengths, strict=True)]
        output = np.stack(rows) if self._one_a_row else _padded(rows, ids.shape[1])
        output = output.astype(self._dtype)
        return {self.meaning.output: output if given.ndim == 2 else output[0]}

    def _row(self, llama: LlamaCpp, ids: Array) -> Array:
        if self.meaning.kind == "decoder":
            logits = llama.logits(ids)
            return logits[-1] if self._one_a_row else logits
        return llama.embeddings(ids, pooled=self._one_a_row)

    def _lengths(self, inputs: Mapping[str, Array]) -> list[int]:
        """How many tokens of each row are run. Raises UsageError for ids or a mask that llama.cpp cannot take."""
        ids = inputs[self.meaning.ids]
        if ids.ndim not in (1, 2) or ids.dtype.kind not in "iu":
            raise UsageError(f"{self.meaning.ids} is {ids.dtype}{list(ids.shape)}, want integers [batch, seq]")
        rows = np.atleast_2d(ids)
        for name, role in self.meaning.fixed.items():
            _check_fixed(name, inputs[name], role)
        if not self.meaning.mask:
            return [rows.shape[1]] * len(rows)
        kept = np.atleast_2d(inputs[self.meaning.mask]) != 0
        if kept.shape != rows.shape:
            raise UsageError(f"{self.meaning.mask} has shape {list(kept.shape)}, want that of {self.meaning.ids}, {list(rows.shape)}")
        lengths = kept.sum(-1)
        for row, length in enumerate(lengths):
            if not length or not kept[row, :length].all():
                raise UsageError(
                    f"{self.meaning.mask} of row {row} is {kept[row].astype(int).tolist()}; llama.cpp takes ones and then zeros",
                    hint="pad on the right, and leave at least one token in a row",
                )
        return [int(n) for n in lengths]


def _find(specs: Sequence[Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    """An input or output of the manifest. Raises ContractError where `facts.gguf` names one that is not there."""
    for spec in specs:
        if spec["name"] == name:
            return spec
    raise ContractError(f"facts.gguf names {name!r}, the manifest has {[s['name'] for s in specs]}", hint="compile the model again")


def _check_fixed(name: str, given: Array, role: str) -> None:
    """Raises UsageError for other values than llama.cpp computes with."""
    wanted = np.zeros(given.shape[-1]) if role == "types" else np.arange(given.shape[-1])
    if (given != wanted).any():
        raise UsageError(
            f"{name} is {given.reshape(-1, given.shape[-1])[0].tolist()}; llama.cpp runs every sequence with {wanted.astype(int).tolist()}",
            hint="give that, or run the model elsewhere",
        )


def _padded(rows: Sequence[Array], length: int) -> Array:
    """[batch, length, width] of rows [n, width], with zeros after each."""
    padded = np.zeros((len(rows), length, rows[0].shape[-1]), np.float32)
    for place, row in zip(padded, rows, strict=True):
        place[: len(row)] = row
    return padded


def runners(directory: Path, manifest: Mapping[str, Any]) -> list[LlamaCppRunner]:
    """What executes the artifact here. Raises MissingToolError where xllamacpp is not installed."""
    threads = int(manifest["facts"].get("threads", 1))
    return [LlamaCppRunner(directory / str(manifest.get("deployable", MODEL)), manifest, threads)]


def requirement() -> Requirement:
    return Requirement(PACKAGE, installed(PACKAGE), "llama.cpp, which runs the model to verify it", INSTALL)
