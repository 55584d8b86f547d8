"""Simplify: onnxsim on the written model, kept only where it pays: fewer nodes, fewer bytes, and the same numbers.

It folds what it can, a transposed weight beside the weight itself included, so that it often makes a model larger. It runs in a
process of its own, for it ends the process on some models.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from edgecc.errors import ContractError, MissingToolError
from edgecc.pipeline.base import Reordered
from edgecc.pipeline.context import Sample
from edgecc.pipeline.numerics import Distance, distance
from edgecc.reference import to_numpy
from edgecc.targeting.packages import installed
from edgecc.targets.onnx_common.runtime import INSTALL, OnnxRuntimeRunner
from edgecc.targets.onnx_common.write import DATA, MODEL, write

_EMBEDDED = 64 * 2**20  # bytes that model.onnx itself may have
_FOLDED = "1MB"  # results that onnxsim may store; its own limit is 1.5 GB
_SECONDS = 900
_CHILD = """
import sys, onnx, onnxsim
model, agrees = onnxsim.simplify(sys.argv[1], tensor_size_threshold=sys.argv[3])
assert agrees, "onnxsim's own check fails"
onnx.save(model, sys.argv[2], save_as_external_data=True, location="all.data", size_threshold=1024)
"""


@dataclass(frozen=True)
class Outcome:
    """`why` the result was not kept, `""` where it was; nodes and bytes of all files, before and after (None where there is none)."""

    why: str
    nodes: tuple[int, int | None]
    bytes: tuple[int, int | None]

    @property
    def facts(self) -> dict[str, Any]:
        return {"kept": not self.why, "why": self.why or None, "nodes": list(self.nodes), "bytes": list(self.bytes)}

    def __str__(self) -> str:
        sizes = f"{self.nodes[0]} -> {self.nodes[1]} nodes, {self.bytes[0]:,} -> {self.bytes[1]:,} bytes" if self.nodes[1] else ""
        return "; ".join(filter(None, [f"onnxsim's result is {'not kept: ' + self.why if self.why else 'kept'}", sizes]))


def simplify(directory: Path, names: Sequence[str], samples: Sequence[Sample], tolerance: float) -> Outcome:
    """Replace model.onnx in `directory` where onnxsim makes it better; otherwise leave every file as it is.

    `names` are those of the inputs; outputs may differ by `tolerance` of their magnitude. Raises MissingToolError.
    """
    if not installed("onnxsim"):
        raise MissingToolError("onnxsim is not installed", hint=INSTALL)
    before = _count(directory)
    if not samples:
        return _dropped("there is no sample to compare it on", before)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, "new")
        made.mkdir()
        why = _run_onnxsim(directory / MODEL, Path(folder, MODEL), made)
        if why:
            return _dropped(why, before)
        after = _count(made)
        why = _worse(before, after, (made / MODEL).stat().st_size) or _differs(directory, made, names, samples, tolerance)
        if not why:
            for name in (MODEL, DATA):
                (directory / name).unlink(missing_ok=True)
            for file in made.iterdir():
                (directory / file.name).write_bytes(file.read_bytes())
    return Outcome(why, (before[0], after[0]), (before[1], after[1]))


def _dropped(why: str, before: tuple[int, int]) -> Outcome:
    return Outcome(why, (before[0], None), (before[1], None))


def _run_onnxsim(model: Path, result: Path, made: Path) -> str:
    """Write its result as `write` does, with weights beside it. Why there is none, `""` where there is one."""
    import onnx_ir as ir

    try:
        command = [sys.executable, "-c", _CHILD, str(model), str(result), _FOLDED]
        run = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"it took longer than {_SECONDS} s"
    if run.returncode:
        said = run.stderr.strip().splitlines()
        return f"it failed with exit code {run.returncode}: {said[-1] if said else 'no message'}"
    found, before = ir.external_data.load_to_model(ir.load(result)), ir.load(model)
    if _interface(found) != _interface(before):
        return "it changes the inputs or outputs"
    found.producer_name, found.producer_version = before.producer_name, before.producer_version
    write(found, made)
    return ""


def _interface(model: Any) -> list[tuple[str, str, str]]:
    return [(v.name, str(v.dtype), str(v.shape)) for v in (*model.graph.inputs, *model.graph.outputs)]


def _count(directory: Path) -> tuple[int, int]:
    """Nodes of the model, bytes of its files."""
    import onnx_ir as ir

    return len(ir.load(directory / MODEL).graph), sum((directory / n).stat().st_size for n in (MODEL, DATA) if (directory / n).is_file())


def _worse(before: tuple[int, int], after: tuple[int, int], embedded: int) -> str:
    if embedded > _EMBEDDED:
        return f"model.onnx has {embedded:,} bytes, want at most {_EMBEDDED:,}"
    grown = [what for what, old, new in zip(("nodes", "bytes"), before, after, strict=True) if new >= old]
    return f"it has not fewer {' or '.join(grown)}" if grown else ""


def _differs(directory: Path, made: Path, names: Sequence[str], samples: Sequence[Sample], tolerance: float) -> str:
    try:
        old, new = (OnnxRuntimeRunner(place / MODEL, 1) for place in (directory, made))
        total = Distance()
        for sample in samples:
            given = {name: to_numpy(t) for name, t in zip(names, sample, strict=True)}
            results = [[torch.from_numpy(x) for x in runner.run(given).values()] for runner in (old, new)]
            total = total.worst(distance(results[0], results[1]))
    except ContractError as error:
        return f"ONNX Runtime does not run it: {error.message}"
    return total.broken(Reordered(tolerance))
