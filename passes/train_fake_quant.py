"""train-fake-quant: quantization-aware training: learn weights that compute well once they are rounded."""

from __future__ import annotations

from dataclasses import dataclass, fields

from edgecc.errors import UsageError
from edgecc.ir.program import Program
from edgecc.pipeline.base import Lossy, Pass
from edgecc.pipeline.context import PassContext
from edgecc.quantization import fake_quant
from edgecc.training.recover import recover
from edgecc.training.settings import Settings
from edgecc.training.task import Task


@dataclass(frozen=True)
class TrainFakeQuant(Pass):
    """Train a program with calibrated fake-quant nodes on the data of `--qat`. Jacob et al. 2018, section 3.

    The options are those of edgecc/training/settings.py; what `--qat` gives counts for those that are left at their defaults.
    """

    name = "train-fake-quant"
    numerics = Lossy(min_sqnr_db=-300)  # training may move the outputs anywhere; the loss and the evaluation say how good they are

    epochs: int = Settings.epochs
    optimizer: str = Settings.optimizer
    lr: float = Settings.lr
    clip: float = Settings.clip
    learn_scales: bool = Settings.learn_scales
    teacher: str = Settings.teacher
    temperature: float = Settings.temperature
    labels: float = Settings.labels
    every: int = Settings.every

    def __post_init__(self) -> None:
        """Raises UsageError for a value out of range."""
        self._settings()

    def _settings(self) -> Settings:
        return Settings(**{f.name: getattr(self, f.name) for f in fields(self)})

    def run(self, program: Program, context: PassContext) -> int:
        """Raises UsageError without training data and for ranges that are not calibrated, and what `recover` raises."""
        activations, weights = fake_quant.activations(program), fake_quant.weights(program)
        if not activations and not weights:
            return 0
        if not isinstance(context.training, Task):
            raise UsageError("train-fake-quant has no data to train on", hint="--qat module:function")
        if any(not bool((program.weight(a.scale) > 0).all()) for a in activations):
            raise UsageError("train-fake-quant found ranges that are not calibrated", hint="run calibrate before it")
        program.recompile()
        history = recover(
            program,
            context.training,
            self._settings(),
            teacher=context.original,
            evaluate=context.evaluate,
            seed=context.seed,
            progress=context.progress,
        )
        context.facts["training"] = history.as_dict()
        return history.changed
