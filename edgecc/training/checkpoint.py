"""Checkpoint: all that a training run needs to go on where it was, in one safetensors file, which holds no code."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from edgecc.errors import UsageError
from edgecc.ir.program import Program
from edgecc.training.settings import Settings

_SCHEMA = "edgecc-training-1"


@dataclass(frozen=True)
class Checkpoint:
    """`tensors`: weights, optimizer and generator state by name. `facts`: JSON values. `identity`: digests of what the run was
    started with, by what they are digests of; a run goes on only with the same.
    """

    tensors: Mapping[str, torch.Tensor]
    facts: Mapping[str, Any]
    identity: Mapping[str, str]


def identity(program: Program, teacher: Program | None, settings: Settings, seed: int) -> dict[str, str]:
    """Digests of what a run is a function of, its data aside."""
    told = {**asdict(settings), "every": None}
    return {"program": _digest(program), "teacher": _digest(teacher) if teacher else "", "settings": repr(told), "seed": str(seed)}


def _digest(program: Program) -> str:
    digest = hashlib.sha256(str(program.graph).encode())
    for name, tensor in program.weights().items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save(checkpoint: Checkpoint, file: Path) -> None:
    """Write beside the file, then rename: a kill leaves the old checkpoint or the new one. Raises UsageError where it cannot."""
    header = {"schema": _SCHEMA, "facts": json.dumps(checkpoint.facts), "identity": json.dumps(checkpoint.identity)}
    beside = file.with_name(f".{file.name}.new")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({k: t.detach().contiguous() for k, t in checkpoint.tensors.items()}, beside, header)
        with beside.open("rb") as written:
            os.fsync(written.fileno())
        beside.replace(file)
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"cannot write the checkpoint {file}: {why}", hint="free some space or name another file") from error


def load(file: Path, identity: Mapping[str, str]) -> Checkpoint | None:
    """The checkpoint in a file, None where there is no file.

    Raises UsageError for a file that is none, and for a checkpoint of another run, with what differs.
    """
    if not file.exists():
        return None
    try:
        with safe_open(file, "pt") as opened:
            header = opened.metadata() or {}
            if header.get("schema") != _SCHEMA:
                raise UsageError(f"{file} is no checkpoint of edgecc", hint="name another file")
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  no mapping
        facts, found = json.loads(header["facts"]), json.loads(header["identity"])
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise UsageError(f"the checkpoint {file} cannot be read: {error}", hint="remove it, or name another file") from error
    differs = [what for what, digest in identity.items() if found.get(what) != digest]
    if differs:
        raise UsageError(
            f"the checkpoint {file} is of another run: it began with another {' and another '.join(differs)}",
            hint="remove it, or name another file",
        )
    return Checkpoint(tensors, facts, found)
