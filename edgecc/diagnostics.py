"""Remarks: what a pass rewrote, and what it left alone and why."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Literal, Protocol

Kind = Literal["applied", "missed", "note"]


@dataclass(frozen=True)
class Remark:
    """One line of `remarks.jsonl`. `source` is `module.path, file.py:line` where it is known."""

    kind: Kind
    origin: str
    node: str
    message: str
    source: str = ""

    def as_dict(self) -> dict[str, str]:
        return asdict(self)

    def __str__(self) -> str:
        place = f" ({self.source})" if self.source else ""
        return f"{self.origin}: {self.kind}: {self.node}: {self.message}{place}"


@dataclass
class Remarks:
    """Remarks in the order they were made, without repetitions."""

    _remarks: dict[Remark, None] = field(default_factory=dict)

    def add(self, remark: Remark) -> None:
        self._remarks.setdefault(remark)

    def __iter__(self) -> Iterator[Remark]:
        return iter(self._remarks)

    def __len__(self) -> int:
        return len(self._remarks)

    def of(self, origin: str, kind: Kind | None = None) -> list[Remark]:
        """Remarks of one pass or target, of one kind if given."""
        return [r for r in self if r.origin == origin and kind in (None, r.kind)]


class Progress(Protocol):
    """Where long work says how far it is. The command line draws it; the library stays silent.

    `step` begins one of the announced steps, `detail` says what a step is doing now.
    """

    def step(self, what: str) -> None: ...

    def detail(self, what: str) -> None: ...


class Silent:
    """Progress that nobody watches."""

    def step(self, what: str) -> None:
        pass

    def detail(self, what: str) -> None:
        pass


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint `did you mean 'x'?`, or what is known where nothing is near."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known) or 'none'}"
