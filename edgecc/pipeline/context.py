"""PassContext: what a pass may look at besides the program, and where it says what it did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import fx

from edgecc.diagnostics import Kind, Progress, Remark, Remarks, Silent
from edgecc.ir import provenance

Sample = tuple[torch.Tensor, ...]


@dataclass
class PassContext:
    """`samples`: flat inputs of the program, seeded and from calibration data, that numerics are checked on.

    `origin` is the pass or target that runs; the pipeline sets it.
    """

    samples: Sequence[Sample] = ()
    seed: int = 0
    remarks: Remarks = field(default_factory=Remarks)
    progress: Progress = field(default_factory=Silent)
    origin: str = ""

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
