"""Real archives of torch.export.save, and the same with single entries changed by hand."""

from __future__ import annotations

import io
import json
import os
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


class Small(torch.nn.Module):
    """A linear layer, a buffer and a constant, on a dict and a keyword, with a dict of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)
        self.register_buffer("offset", torch.ones(4))
        self.scale = torch.arange(4.0)

    def forward(self, inputs: dict[str, torch.Tensor], *, shift: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = self.linear(inputs["x"]) * self.scale + self.offset + shift
        return {"hidden": hidden, "flat": hidden.reshape(hidden.shape[0] * 4)}


class Command:
    """Pickles as a call of os.system."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def exported() -> torch.export.ExportedProgram:
    torch.manual_seed(0)
    batch = torch.export.Dim("batch", min=2, max=64)
    shapes = {"inputs": {"x": {0: batch}}, "shift": None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(Small().eval(), ({"x": torch.randn(6, 4)},), {"shift": torch.ones(4)}, dynamic_shapes=shapes)


def save(path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(exported(), path, extra_files={"note.txt": "hello"})
    return path


def change(
    source: Path, target: Path, changes: dict[str, bytes | Callable[[bytes], bytes]], *, compression: int = zipfile.ZIP_STORED
) -> Path:
    """Copy an archive with entries replaced or added; names are below the root folder."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        root = old.namelist()[0].split("/")[0]
        content = {n: old.read(n) for n in old.namelist()}
        for name, value in changes.items():
            full = f"{root}/{name}"
            content[full] = value(content[full]) if callable(value) else value
        for name, data in content.items():
            new.writestr(name, data)
    return target


def change_model(source: Path, target: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    """Copy an archive with its model JSON edited in place."""

    def edited(data: bytes) -> bytes:
        model = json.loads(data)
        edit(model)
        return json.dumps(model).encode()

    return change(source, target, {"models/model.json": edited})


def torch_saved(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def runs_in_torch(path: Path, marker: Path) -> bool:
    """Whether torch itself runs the code in a crafted archive, which leaves `marker` behind."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            module = torch.export.load(path).module(check_guards=True)
            module({"x": torch.ones(6, 4)}, shift=torch.ones(4))
        except Exception:  # noqa: BLE001  a crafted archive may fail after it has run
            pass
    found = marker.exists()
    marker.unlink(missing_ok=True)
    return found
