"""Pass: the contract between the pipeline and everything that rewrites a program."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from edgecc.ir.program import Program
    from edgecc.pipeline.context import PassContext

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


@dataclass(frozen=True)
class Exact:
    """The outputs are equal bit for bit."""


@dataclass(frozen=True)
class Reordered:
    """The outputs are equal but for float reassociation.

    The largest difference is at most `tolerance` times the largest magnitude of the output. 1e-4 leaves room for
    the last bits of float32 (eps 1.2e-7) to grow through a few dozen layers; a wrong rewrite is off by 1e-2 and more.
    """

    tolerance: float = 1e-4


@dataclass(frozen=True)
class Lossy:
    """The outputs keep at least this signal to quantization-noise ratio, in dB."""

    min_sqnr_db: float


#: What is lost is measured and reported; the options of a compile bound it, not the pass.
LOSSY = Lossy(-math.inf)
Numerics = Exact | Reordered | Lossy
EXACT, REORDERED = Exact(), Reordered()


@dataclass(frozen=True)
class Pass(ABC):
    """A rewrite of a program. A subclass is a frozen dataclass whose fields are its options, each with a default.

    `name` is verb-object (`fuse-gelu`), `numerics` what the pass promises, checked after every run that changed
    something.
    """

    name: ClassVar[str]
    numerics: ClassVar[Numerics] = REORDERED

    @abstractmethod
    def run(self, program: Program, context: PassContext) -> int:
        """Rewrite `program` in place and return the number of rewrites, 0 if nothing changed."""

    def __str__(self) -> str:
        """The pass as it stands in pipeline text, options at their default left out."""
        options = [
            f"{f.name}={_text(getattr(self, f.name))}" for f in fields(self) if f.default is MISSING or getattr(self, f.name) != f.default
        ]
        return f"{self.name}{{{','.join(options)}}}" if options else self.name


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return f"[{', '.join(map(_text, value))}]"
    return repr(value) if isinstance(value, str) else str(value).lower() if value is None else str(value)
