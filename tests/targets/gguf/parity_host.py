"""A model as a GGUF file of float32 and in llama.cpp, beside PyTorch eager: program, description, tensors and keys, file, logits."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgecc.ir.capture import trace
from edgecc.ir.program import Program
from edgecc.pipeline import manager
from edgecc.pipeline.context import PassContext
from edgecc.pipeline.spec import Pipeline, parse
from edgecc.registry import Registry
from edgecc.targets.gguf.plan import Plan, make_plan
from edgecc.targets.gguf.runtime.llama_cpp import LlamaCpp
from edgecc.targets.gguf.target import Gguf
from edgecc.targets.gguf.writer import Planned, write

pytest.importorskip("xllamacpp", reason="xllamacpp is not installed (pip install 'edgecc[gguf]')")

Tensors = dict[str, torch.Tensor]
Change = Callable[[Tensors, dict[str, Any]], None]
_F32 = Gguf(mixture="f32", allow_approximate=True)


@dataclass(frozen=True)
class Parity:
    """llama.cpp's numbers beside PyTorch's, rows of tokens [n, channels] f64."""

    architecture: str
    found: np.ndarray[Any, Any]
    wanted: np.ndarray[Any, Any]

    @property
    def error(self) -> float:
        """The largest difference, as a part of the largest number or of 1."""
        return float(np.abs(self.found - self.wanted).max() / max(1.0, np.abs(self.wanted).max()))

    @property
    def agreement(self) -> float:
        """How many rows have their largest number at the same place, or numbers there that are no further apart than the error."""
        rows = np.arange(len(self.wanted))
        best = self.wanted[rows, self.wanted.argmax(-1)]
        return float((best - self.wanted[rows, self.found.argmax(-1)] <= 1e-3).mean())

    @property
    def cosine(self) -> float:
        """The smallest of any row."""
        norms = np.linalg.norm(self.found, axis=-1) * np.linalg.norm(self.wanted, axis=-1)
        return float(((self.found * self.wanted).sum(-1) / norms).min())


EXACT = 5e-5  # float32 sums in other orders; measured 4e-7 to 2e-6
TABLE = 1e-3  # ggml reads GELU from a table of float16; measured 1e-4 to 5e-4
FAMILIES = {"gpt2", "mpt", "starcoder2", "phi2", "gptneox", "gemma", "bert"}  # those whose activation is GELU


def agrees(found: Parity) -> bool:
    """Whether llama.cpp computes what PyTorch does, as well as its arithmetic allows."""
    if found.architecture in FAMILIES:
        return found.error <= TABLE and found.agreement >= 0.99 and found.cosine >= 0.99999
    return found.error <= EXACT and found.agreement == 1.0


@cache
def _pipeline() -> Pipeline:
    return parse(Gguf(allow_approximate=False).pipeline(), Registry.create().passes)


def ids(vocabulary: int = 97, length: int = 12, batch: int = 1, seed: int = 1) -> torch.Tensor:
    """[batch, length] i64."""
    return torch.randint(0, vocabulary, (batch, length), generator=torch.Generator().manual_seed(seed))


def lowered(model: torch.nn.Module, *args: Any, dims: Any = None, **kwargs: Any) -> Program:
    """The program after the passes of the target."""
    program = trace(model, args, kwargs, dims=dims)
    manager.run(_pipeline(), program, PassContext(samples=(program.examples,)))
    return program


def plan_of(program: Program) -> Plan:
    return make_plan(program, _F32, PassContext(samples=(program.examples,)))


def write_file(path: Path, program: Program, plan: Plan, change: Change | None = None) -> None:
    """All in float32. `change` edits tensors by name and keys before they are written."""
    tensors = {t.name: t.read(program).float() for t in plan.tensors}
    assert {t.name: t.shape for t in plan.tensors} == {name: tuple(v.shape) for name, v in tensors.items()}
    keys = dict(plan.keys)
    if change:
        change(tensors, keys)
    planned = [Planned(name, tuple(v.shape), "f32") for name, v in tensors.items()]
    write(path, keys, planned, (v.contiguous().view(torch.uint8).flatten() for v in tensors.values()))


def run_file(path: Path, rows: np.ndarray[Any, Any], *, encoder: bool = False) -> np.ndarray[Any, Any]:
    """rows [sequences, tokens] -> logits or embeddings of every token, one sequence after another."""
    with LlamaCpp(path) as llama:
        return np.concatenate([llama.embeddings(row) if encoder else llama.logits(row) for row in rows]).astype(np.float64)


def parity(
    model: torch.nn.Module,
    given: torch.Tensor,
    *,
    change: Change | None = None,
    dims: Any = None,
    other: torch.Tensor | None = None,
    wide: bool = False,
    **kwargs: Any,
) -> Parity:
    """Run both on `other`, on the example where there is none. `wide`: PyTorch with the weights in float32."""
    program = lowered(model, given, dims=dims, **kwargs)
    plan = plan_of(program)
    rows = given if other is None else other
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        write_file(path, program, plan, change)
        found = run_file(path, torch.atleast_2d(rows).numpy(), encoder=plan.model.head is None)
    with torch.no_grad():
        wanted = (model.float() if wide else model)(rows, **kwargs)
    return Parity(plan.architecture.name, found, wanted.reshape(-1, wanted.shape[-1]).double().numpy())
