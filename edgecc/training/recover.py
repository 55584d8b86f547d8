"""recover: train a program in place, so that it computes with few bits what it computed in floating point.

Batch normalization is folded into weights before anything is quantized, so there are no statistics to update; what is left of it
runs with the stored ones. A run is a function of the program, the data, the settings, the seed and the number of threads: it goes
on after a kill from its last checkpoint to the same bytes. The program itself changes at the end, all at once; an error leaves it as
it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import islice

import torch

from edgecc.diagnostics import Progress, Silent
from edgecc.errors import ContractError, UsageError
from edgecc.ir.program import Program
from edgecc.training import batches, checkpoint
from edgecc.training import optimizer as optimizers
from edgecc.training.batches import Batch
from edgecc.training.checkpoint import Checkpoint
from edgecc.training.log import Epoch, EventLog, History, epochs_of
from edgecc.training.objective import Objective
from edgecc.training.settings import Settings
from edgecc.training.task import Item, Opened, Task, seeded
from edgecc.training.trainee import Trainee, in_float, trainee

Evaluate = Callable[[Program], float]
#: How many times an epoch its progress is told.
_TOLD = 4


def recover(
    program: Program,
    task: Task,
    settings: Settings | None = None,
    *,
    teacher: Program | None = None,
    evaluate: Evaluate | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> History:
    """Train the weights, and the scales of fake-quant nodes where the settings say so.

    `teacher`: the program whose outputs are wanted; without one it is the program itself, not quantized. Raises UsageError for bad
    data, a loss that cannot be computed, no trainable weight, and a checkpoint of another run; ContractError for a loss or a
    gradient that is not finite, with the step.
    """
    with seeded(seed, 0):
        opened = task.open()
    chosen = (settings or Settings()).filled(opened.settings, task.origin)
    plain = in_float(program)
    student = trainee(program, learn_scales=chosen.learn_scales)
    objective = Objective(chosen, plain, teacher or plain, opened.loss, task.origin)
    identity = checkpoint.identity(program, teacher if chosen.teacher else None, chosen, seed)
    run = _Run(task, chosen, student, objective, identity, seed, progress or Silent(), evaluate)
    history = run.train(opened)
    return replace(history, changed=student.write_back(program))


@dataclass
class _State:
    """Where a run is: `step` counts all steps, `done` those of the epoch, `total` their losses. `size`: batches of an epoch."""

    size: int
    step: int = 0
    done: int = 0
    total: float = 0.0


@dataclass
class _Run:
    task: Task
    settings: Settings
    student: Trainee
    objective: Objective
    identity: dict[str, str]
    seed: int
    progress: Progress
    evaluate: Evaluate | None
    before: float | None = None
    epochs: list[Epoch] = field(default_factory=list)

    def train(self, opened: Opened) -> History:
        self.optimizer = optimizers.create(self.student, self.settings)
        file = self.task.checkpoint
        found = checkpoint.load(file, self.identity) if file else None
        state = self._resume(found) if found else self._begin(opened)
        self.log = EventLog(self.task.log)
        drawn = found.tensors["generator"] if found and state.done else None
        for epoch in range(len(self.epochs), self.settings.epochs):
            self._epoch(epoch, state, opened, drawn)
            drawn = None
        return History(self.settings, tuple(self.epochs), self.before)

    def _begin(self, opened: Opened) -> _State:
        state = _State(self._count(opened))
        self.before = self.evaluate(self.student.program) if self.evaluate else None
        return state

    def _count(self, opened: Opened) -> int:
        """How many batches an epoch has; data that does not say so is gone through once. Raises UsageError for none."""
        try:
            size = len(opened.data)  # type: ignore[arg-type]
        except TypeError:
            self.progress.detail(f"counting the batches of {self.task.origin}")
            with seeded(self.seed, 0):
                size = sum(1 for _ in self.task.batches(self._fresh(opened)))
        if not size:
            hint = "give at least one; an epoch over all of the training data is usual"
            raise UsageError(f"{self.task.origin} gives no batch", hint=hint)
        return size

    def _fresh(self, opened: Opened) -> Opened:
        """Data for one more pass: a function that made a generator is called anew."""
        if not opened.once:
            return opened
        again = self.task.open()
        if again.data is opened.data:
            raise UsageError(f"{self.task.origin} is a generator, which ends after one pass", hint="give the function that makes it")
        return again

    def _epoch(self, epoch: int, state: _State, opened: Opened, drawn: torch.Tensor | None) -> None:
        """One pass through the data, from where the state is. `drawn`: torch's generator there."""
        with seeded(self.seed, epoch):
            items = self.task.batches(self._fresh(opened))
            for _ in islice(items, state.done):
                pass
            if drawn is not None:
                torch.set_rng_state(drawn)
            for batch in self._bound(items, epoch, state.done):
                self._step(epoch, state, batch)
                if state.done % self.settings.every == 0 and state.done < state.size:
                    self._save(state)
            if state.done != state.size:
                raise UsageError(f"{self.task.origin} gave {state.done} batches in epoch {epoch + 1}, and {state.size} before")
        found = self.evaluate(self.student.program) if self.evaluate else None
        ended = Epoch(epoch + 1, state.done, state.total / state.done, self._rate(state.step - 1, state), found)
        self.epochs.append(ended)
        self.log.add(state.step, {"epoch/loss": ended.loss, "epoch/evaluation": found})
        score = "" if found is None else f", evaluated {found:.6g}"
        self.progress.detail(f"train: epoch {epoch + 1}/{self.settings.epochs}, loss {ended.loss:.4g}{score}")
        state.done, state.total = 0, 0.0
        self._save(state)

    def _bound(self, items: Iterator[Item], epoch: int, first: int) -> Iterator[Batch]:
        for index, item in enumerate(items, first):
            try:
                batch = batches.bind(item, self.student.program.signature)
                self.objective.prepare(batch)
            except UsageError as error:
                where = f"{self.task.origin}, batch {index} of epoch {epoch + 1}"
                raise UsageError(f"{where}: {error.message}", hint=error.hint) from error
            yield batch

    def _step(self, epoch: int, state: _State, batch: Batch) -> None:
        where = f"step {state.done + 1} of epoch {epoch + 1}"
        rate = self._rate(state.step, state)
        optimizers.set_rate(self.optimizer, rate)
        self.optimizer.zero_grad()
        loss = self.objective(self.student.program, batch, where)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise self._diverged(f"the loss is {value} at {where}, lr {rate:.3g}")
        loss.backward()  # type: ignore[no-untyped-call]
        norm = float(torch.nn.utils.clip_grad_norm_(self.student.parameters.values(), self.settings.clip or math.inf))
        if not math.isfinite(norm):
            raise self._diverged(f"the gradient is not finite at {where}, loss {value:.4g}, lr {rate:.3g}")
        self.optimizer.step()
        self.student.clamp_scales()
        state.step, state.done, state.total = state.step + 1, state.done + 1, state.total + value
        self.log.add(state.step, {"step/loss": value, "step/lr": rate, "step/gradient": norm})
        if state.done % max(1, state.size // _TOLD) == 0 and state.done < state.size:
            mean = state.total / state.done
            self.progress.detail(f"train: epoch {epoch + 1}/{self.settings.epochs}, step {state.done}/{state.size}, loss {mean:.4g}")

    def _diverged(self, what: str) -> ContractError:
        file = self.task.checkpoint
        kept = f"; {file} holds earlier weights" if file and file.exists() else ""
        return ContractError(f"training: {what}", hint=f"a smaller lr, and a look at that batch{kept}")

    def _rate(self, step: int, state: _State) -> float:
        return optimizers.rate(self.settings, step, state.size * self.settings.epochs)

    def _save(self, state: _State) -> None:
        if self.task.checkpoint is None:
            return
        weights = {f"weight/{name}": t for name, t in self.student.parameters.items()}
        tensors = {**weights, **optimizers.tensors(self.optimizer), "generator": torch.get_rng_state()}
        facts = {"state": asdict(state), "epochs": [asdict(e) for e in self.epochs], "before": self.before}
        checkpoint.save(Checkpoint(tensors, facts, self.identity), self.task.checkpoint)

    def _resume(self, found: Checkpoint) -> _State:
        with torch.no_grad():
            for name, tensor in self.student.parameters.items():
                tensor.copy_(found.tensors[f"weight/{name}"])
        optimizers.restore(self.optimizer, found.tensors)
        self.epochs, self.before = epochs_of(found.facts["epochs"]), found.facts["before"]
        state = _State(**found.facts["state"])
        self.progress.detail(f"train: going on from {self.task.checkpoint}, after {state.step} steps")
        return state
