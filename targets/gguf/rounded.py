"""What rounding goes by, as the options and the data say: the nearest number, an importance matrix, or calibration data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from edgecc.errors import UsageError
from edgecc.ir.program import Program
from edgecc.pipeline.context import PassContext
from edgecc.targets.gguf.blocks import FORMATS
from edgecc.targets.gguf.calibrated import Calibration, calibrated, calibration
from edgecc.targets.gguf.encode import encoded, weighed
from edgecc.targets.gguf.plan import Plan
from edgecc.targets.gguf.rounding.importance import from_moments, read_importance, write_importance

if TYPE_CHECKING:
    from edgecc.targets.gguf.target import Gguf

IMATRIX = "imatrix.gguf"
#: Vectors for each column of a layer below which rounding fits the data it was given more than what they stand for. MiniLM on STS-B
#: sentences, Q4_K_M, 1 - cosine: .0024 with 7.7 for each of the widest layer, .0041 on text of another kind.
_ENOUGH = 4


@dataclass
class Rounded:
    """`data`: the bytes of each tensor of a plan, in its order; `by`: what they were rounded by; `notes`: complete once `data` is."""

    by: str
    data: Iterator[torch.Tensor]
    notes: list[str] = field(default_factory=list)

    @property
    def moved(self) -> bool:
        """Whether weights left what they were to make up for the rounding of others."""
        return self.by == "compensated"


def rounded(program: Program, plan: Plan, options: Gguf, directory: Path, context: PassContext) -> Rounded:
    """An importance matrix is written to `directory` where calibration data make one. Raises UsageError for two sources."""
    if options.imatrix and context.calibration is not None:
        raise UsageError("--imatrix and --calibration both say what rounding goes by", hint="leave one of them out")
    blocks = any(FORMATS[row.format].block > 1 for row in plan.rows())
    if options.imatrix:
        return Rounded("importance matrix", weighed(program, plan, read_importance(Path(options.imatrix))))
    if context.calibration is None or not blocks:
        return Rounded("nearest" if blocks else "none", encoded(program, plan, context.progress, context.workers))
    compensates = options.compensate != "none"
    by = calibration(program, plan, context.calibration, compensates=compensates, progress=context.progress)
    found = Rounded("compensated" if compensates else "importance of calibration data", iter(()))
    found.data = _calibrated(by, directory, found.notes)
    return found


def _calibrated(by: Calibration, directory: Path, notes: list[str]) -> Iterator[torch.Tensor]:
    yield from calibrated(by)
    if not by.seen:  # no layer is rounded
        return
    tokens = sum(sample[0].numel() for sample in by.samples)
    write_importance(directory / IMATRIX, from_moments(by.seen, chunks=len(by.samples), chunk_size=tokens // max(1, len(by.samples))))
    least, name = min((found.count / len(found.squares), name) for name, found in by.seen.items())
    if by.compensates and least < _ENOUGH:
        notes.append(
            f"calibrated on {by.seen[name].count} tokens, {least:.2g} for each column of {name}: other text may lose more than without. "
            "Some 10,000 tokens are usual"
        )
