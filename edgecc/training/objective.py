"""Objective: the loss of one batch, from targets, from a teacher, or from both, in as many pieces as the programs want."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from edgecc.errors import EdgeccError, UsageError
from edgecc.ir.program import Program
from edgecc.training import batches, losses
from edgecc.training.batches import Batch
from edgecc.training.settings import Settings
from edgecc.training.task import Loss


@dataclass
class Objective:
    """`plain` is the program that is trained, in floating point, `loss` the user's own. `origin` is what errors call the data."""

    settings: Settings
    plain: Program
    teacher: Program
    loss: Loss | None
    origin: str
    _rows: int | None = None
    _tried: bool = False

    def prepare(self, batch: Batch) -> None:
        """Find once whether other numbers of rows than the program's own go through at once.

        Raises UsageError for a batch that then is not made of whole pieces.
        """
        size = batches.fixed_rows(self.plain.signature)
        if size is None or len(batch.inputs[0]) == size:
            return
        if not self._tried:
            models = [self.plain, *([self.teacher] if self.settings.teacher else [])]
            self._rows = None if all(batches.takes_all_at_once(m, batch) for m in models) else size
            self._tried = True
        if self._rows is not None:
            batches.check_pieces(batch, self._rows)

    def __call__(self, student: Program, batch: Batch, where: str) -> torch.Tensor:
        """The share of the targets and that of the teacher, with its gradient. Raises UsageError where it cannot be computed."""
        if not self.settings.teacher and batch.target is None and self.loss is None:
            raise UsageError(f"{self.origin} gives no target at {where}", hint="(inputs, target), or a teacher: teacher='kl'")
        try:
            found = self._loss(student, batch)
        except UsageError as error:
            raise UsageError(f"{self.origin}, {where}: {error.message}", hint=error.hint) from error
        except EdgeccError:
            raise
        except Exception as error:  # the user's loss may raise anything
            raise UsageError(f"the loss of {self.origin} failed at {where}: {type(error).__name__}: {error}") from error
        if not found.requires_grad:
            raise UsageError(f"the loss of {self.origin} does not depend on the program's weights", hint="compute it from the outputs")
        return found

    def _loss(self, student: Program, batch: Batch) -> torch.Tensor:
        kind, labels = self.settings.teacher, self.settings.labels
        outputs = batches.forward(student, batch.inputs, self._rows)
        if not kind:
            return self._supervised(outputs, batch.target)
        with torch.no_grad():
            wanted = batches.forward(self.teacher, batch.inputs, self._rows)
        taught = losses.distilled(kind, outputs, wanted, self.settings.temperature)
        return (1 - labels) * taught + labels * self._supervised(outputs, batch.target) if labels else taught

    def _supervised(self, outputs: tuple[torch.Tensor, ...], target: object) -> torch.Tensor:
        if self.loss is None:
            if not isinstance(target, torch.Tensor):
                raise UsageError(f"the target is {type(target).__name__}, want a tensor", hint="give a loss of your own")
            return losses.supervised(outputs, target)
        found = self.loss(outputs[0] if len(outputs) == 1 else outputs, target)
        if not isinstance(found, torch.Tensor) or found.numel() != 1:
            raise UsageError(f"its loss gives {getattr(found, 'shape', type(found).__name__)}, want a tensor of one number")
        return found.reshape(())
