"""Log: what a training run did, an epoch a line of the report, and every step for TensorBoard where a folder is named."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgecc.errors import UsageError
from edgecc.training import events
from edgecc.training.settings import Settings


@dataclass(frozen=True)
class Epoch:
    """`loss`: the mean over the steps. `lr`: at the last step. `evaluation`: after it, None where nobody said how."""

    epoch: int
    steps: int
    loss: float
    lr: float
    evaluation: float | None = None


@dataclass(frozen=True)
class History:
    """What `settings` were in force, the evaluation `before` the first step, and how many tensors of the program are new."""

    settings: Settings
    epochs: tuple[Epoch, ...]
    before: float | None
    changed: int = 0

    def as_dict(self) -> dict[str, Any]:
        after = self.epochs[-1].evaluation if self.epochs else None
        seen = [asdict(e) for e in self.epochs]
        return {**asdict(self.settings), "history": seen, "evaluation": {"before": self.before, "after": after}}


class EventLog:
    """Scalars in a new event file of a folder; nothing where there is no folder."""

    def __init__(self, folder: Path | None) -> None:
        self._file: Path | None = None
        if folder is None:
            return
        self._guarded(folder, lambda: folder.mkdir(parents=True, exist_ok=True))
        number = 1 + max([_number(f.name) for f in folder.glob("events.out.tfevents.*.edgecc")], default=0)
        self._file = folder / f"events.out.tfevents.{number:010d}.edgecc"
        self._write(events.version(time.time()))

    def add(self, step: int, values: Mapping[str, float | None]) -> None:
        known = {k: v for k, v in values.items() if v is not None}
        if self._file is not None and known:
            self._write(events.scalars(time.time(), step, known))

    def _write(self, data: bytes) -> None:
        file = self._file
        assert file is not None

        def append() -> None:
            with file.open("ab") as opened:
                opened.write(events.record(data))

        self._guarded(file, append)

    @staticmethod
    def _guarded(place: Path, work: Any) -> None:
        try:
            work()
        except OSError as error:
            raise UsageError(f"cannot write the log {place}: {error.strerror}", hint="name another folder") from error


def _number(name: str) -> int:
    word = name.split(".")[3]
    return int(word) if word.isdigit() else 0


def epochs_of(facts: Sequence[Mapping[str, Any]]) -> list[Epoch]:
    """Epochs from their JSON values."""
    return [Epoch(**fact) for fact in facts]
