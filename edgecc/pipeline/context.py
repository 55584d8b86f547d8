"""PassContext: what a pass may look at besides the program, and where it says what it did."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from edgecc.diagnostics import Kind, Progress, Remark, Remarks, Silent
from edgecc.ir import provenance

if TYPE_CHECKING:
    from edgecc.ir.program import Program

Sample = tuple[torch.Tensor, ...]


@dataclass
class PassContext:
    """`samples`: flat inputs of the program, seeded and from calibration data, that numerics are checked on.

    `origin` is the pass or target that runs; the pipeline sets it. `calibration`: inputs of the kind that the model will see,
    which may be gone through more than once; None where there are none. `evaluate`: how good a program is, higher is better;
    None where nobody said. `max_drop`: how much of that may be lost. `training`: an `edgecc.training.task.Task`, what to train on;
    None where there is nothing. `original`: the program before the first pass. `facts`: JSON values that passes put into the report.
    `directory`: the folder of the model, with its configuration and tokenizer, None where it came from elsewhere.
    `workers`: processes that may work at once; no result depends on it.
    """

    samples: Sequence[Sample] = ()
    seed: int = 0
    remarks: Remarks = field(default_factory=Remarks)
    progress: Progress = field(default_factory=Silent)
    origin: str = ""
    calibration: Iterable[Sample] | None = None
    evaluate: Callable[[Program], float] | None = None
    max_drop: float | None = None
    training: object | None = None
    original: Program | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    directory: Path | None = None
    workers: int = 1

    @property
    def data(self) -> Iterable[Sample]:
        """Calibration inputs, or the seeded ones in their place."""
        return self.samples if self.calibration is None else self.calibration

    def applied(self, node: fx.Node, message: str) -> None:
        """Remark a rewrite, before the node is erased."""
        self._remark("applied", node, message)

    def missed(self, node: fx.Node, message: str) -> None:
        """Remark a rewrite that did not happen, and why."""
        self._remark("missed", node, message)

    def note(self, node: fx.Node, message: str) -> None:
        self._remark("note", node, message)

    def _remark(self, kind: Kind, node: fx.Node, message: str) -> None:
        self.remarks.add(Remark(kind, self.origin, node.name, message, provenance.describe(node)))
