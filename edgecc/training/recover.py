"""recover: train a program in place, so that it computes with few bits what it computed in floating point.

Batch normalization is folded into weights before anything is quantized, so there are no statistics to update; what is left of it
runs with the stored ones. A run is a function of the program, the data, the settings, the seed and the number of threads: it goes on after a kill
from its last checkpoint to the same bytes. The program itself changes at the end, all at once; an error leaves it as it was.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice

import torch

from edgecc.diagnostics import Progress, Silent
from edgecc.errors import ContractError, EdgeccError, UsageError
from edgecc.ir.program import Program
from edgecc.training import batches, checkpoint, losses
from edgecc.training.batches import Batch
from edgecc.training.checkpoint import Checkpoint
from edgecc.training.log import Epoch, EventLog, History, epochs_of
from edgecc.training.settings import Settings
from edgecc.training.task import Opened, Task, seeded
from edgecc.training.trainee import Trainee, in_float, trainee

Evaluate = Callable[[Program], float]
#: How many times an epoch its progress is told.
_TOLD = 4
#: The least size of a weight that its steps are relative to, so that a bias of zeros is trained too. Shazeer and Stern 2018, section 8.
_SMALL = 1e-3


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

    `teacher`: the program whose outputs are wanted; without one it is the program itself, not quantized. Raises UsageError for bad data, a loss
    that cannot be computed, no trainable weight, and a checkpoint of another run; ContractError for a loss or a gradient that is not finite, with
    the step.
    """
    with seeded(seed, 0):
        opened = task.open()
    chosen = (settings or Settings()).filled(opened.settings, task.origin)
    plain = in_float(program)
    run = _Run(
        *(task, chosen, trainee(program, learn_scales=chosen.learn_scales), plain, teacher or plain),
        *(evaluate, seed, progress or Silent(), _identity(program, teacher, chosen, seed)),
    )
    history = run.train(opened)
    return replace(history, changed=run.student.write_back(program))


def _identity(program: Program, teacher: Program | None, settings: Settings, seed: int) -> dict[str, str]:
    taught = _digest(teacher) if teacher and settings.teacher else ""
    return {"program": _digest(program), "teacher": taught, "settings": repr({**asdict(settings), "every": None}), "seed": str(seed)}


def _digest(program: Program) -> str:
    digest = hashlib.sha256(str(program.graph).encode())
    for name, tensor in program.weights().items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


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
    plain: Program
    teacher: Program
    evaluate: Evaluate | None
    seed: int
    progress: Progress
    identity: dict[str, str]
    rows: int | None = None
    probed: bool = False

    def train(self, opened: Opened) -> History:
        self.optimizer = _optimizer(self.student, self.settings)
        self.log = EventLog(self.task.log)
        self.epochs: list[Epoch] = []
        found = checkpoint.load(self.task.checkpoint, self.identity) if self.task.checkpoint else None
        if found:
            state = self._resume(found)
        else:
            self.before = self.evaluate(self.student.program) if self.evaluate else None
            state = _State(self._count(opened))
        generator = found.tensors.get("generator") if found else None
        for epoch in range(len(self.epochs), self.settings.epochs):
            self._epoch(epoch, state, opened, generator)
            generator = None
        return History(self.settings, tuple(self.epochs), self.before)

    def _count(self, opened: Opened) -> int:
        """How many batches an epoch has; data that does not say so is gone through once. Raises UsageError for none."""
        try:
            size = len(opened.data)  # type: ignore[arg-type]
        except TypeError:
            self.progress.detail(f"counting the batches of {self.task.origin}")
            with seeded(self.seed, 0):
                size = sum(1 for _ in self.task.batches(self._fresh(opened)))
        if not size:
            raise UsageError(
                f"{self.task.origin} gives no batch", hint="give at least one; an epoch over all of the training data is usual"
            )
        return size

    def _fresh(self, opened: Opened) -> Opened:
        """Data for one more pass: a function that made a generator is called anew."""
        if not opened.once:
            return opened
        again = self.task.open()
        if again.data is opened.data:
            raise UsageError(f"{self.task.origin} is a generator, which ends after one pass", hint="give the function that makes it")
        return again

    def _epoch(self, epoch: int, state: _State, opened: Opened, generator: torch.Tensor | None) -> None:
        loss = opened.loss
        with seeded(self.seed, epoch):
            items = self.task.batches(self._fresh(opened))
            for _ in islice(items, state.done):
                pass
            if generator is not None:
                torch.set_rng_state(generator)
            for batch in self._bound(items, epoch, state.done):
                self._step(epoch, state, batch, loss)
                if state.done % self.settings.every == 0 and state.done < state.size:
                    self._save(state)
            if state.done != state.size:
                raise UsageError(f"{self.task.origin} gave {state.done} batches in epoch {epoch + 1}, and {state.size} before")
        found = self.evaluate(self.student.program) if self.evaluate else None
        self.epochs.append(Epoch(epoch + 1, state.done, state.total / state.done, self._rate(state.step - 1, state.size), found))
        self.log.add(state.step, {"epoch/loss": self.epochs[-1].loss, "epoch/evaluation": found})
        score = "" if found is None else f", evaluated {found:.6g}"
        self.progress.detail(f"train: epoch {epoch + 1}/{self.settings.epochs}, loss {self.epochs[-1].loss:.4g}{score}")
        state.done, state.total = 0, 0.0
        self._save(state)

    def _bound(self, items: Iterator[object], epoch: int, first: int) -> Iterator[Batch]:
        for index, item in enumerate(items, first):
            where = f"{self.task.origin}, batch {index} of epoch {epoch + 1}"
            batch = batches.bind(item, self.student.program.signature, where)  # type: ignore[arg-type]
            self._split(batch, where)
            yield batch

    def _split(self, batch: Batch, where: str) -> None:
        """Find once whether other numbers of rows than the program's own go through at once."""
        size = batches.fixed_rows(self.student.program.signature)
        if size is None or len(batch.inputs[0]) == size:
            return
        if not self.probed:
            models = [self.plain, *([self.teacher] if self.settings.teacher else [])]
            self.rows = None if all(batches.takes_all_at_once(m, batch) for m in models) else size
            self.probed = True
        if self.rows is not None:
            try:
                batches.check_pieces(batch, self.rows)
            except UsageError as error:
                raise UsageError(f"{where}: {error.message}", hint=error.hint) from error

    def _step(self, epoch: int, state: _State, batch: Batch, loss: object) -> None:
        where = f"step {state.done + 1} of epoch {epoch + 1}"
        rate = self._rate(state.step, state.size)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["share"]
        self.optimizer.zero_grad()
        found = self._loss(batch, loss, where)
        value = float(found.detach())
        if not math.isfinite(value):
            raise ContractError(f"training: the loss is {value} at {where}, lr {rate:.3g}", hint=self._advice())
        found.backward()  # type: ignore[no-untyped-call]
        norm = float(torch.nn.utils.clip_grad_norm_(self.student.parameters.values(), self.settings.clip or math.inf))
        if not math.isfinite(norm):
            raise ContractError(f"training: the gradient is not finite at {where}, loss {value:.4g}, lr {rate:.3g}", hint=self._advice())
        self.optimizer.step()
        self.student.clamp_scales()
        state.step, state.done, state.total = state.step + 1, state.done + 1, state.total + value
        self.log.add(state.step, {"step/loss": value, "step/lr": rate, "step/gradient": norm})
        if state.done % max(1, state.size // _TOLD) == 0 and state.done < state.size:
            mean = state.total / state.done
            self.progress.detail(f"train: epoch {epoch + 1}/{self.settings.epochs}, step {state.done}/{state.size}, loss {mean:.4g}")

    def _advice(self) -> str:
        kept = f"; {self.task.checkpoint} holds the last good weights" if self.task.checkpoint else ""
        return f"a smaller lr, and a look at the batch{kept}"

    def _loss(self, batch: Batch, loss: object, where: str) -> torch.Tensor:
        """The share of the targets and that of the teacher. Raises UsageError where it cannot be computed."""
        kind, labels = self.settings.teacher, self.settings.labels
        if not kind and batch.target is None and loss is None:
            raise UsageError(f"{self.task.origin} gives no target at {where}", hint="(inputs, target), or a teacher: teacher='kl'")
        try:
            outputs = batches.forward(self.student.program, batch.inputs, self.rows)
            found = outputs[0].new_zeros(())
            if not kind or labels:
                found = found + (labels if kind else 1.0) * _supervised(outputs, batch.target, loss, self.task.origin)
            if kind:
                with torch.no_grad():
                    wanted = batches.forward(self.teacher, batch.inputs, self.rows)
                found = found + (1 - labels) * losses.distilled(kind, outputs, wanted, self.settings.temperature)
        except UsageError as error:
            raise UsageError(f"{self.task.origin}, {where}: {error.message}", hint=error.hint) from error
        except EdgeccError:
            raise
        except Exception as error:  # the user's loss may raise anything
            raise UsageError(f"the loss of {self.task.origin} failed at {where}: {type(error).__name__}: {error}") from error
        if not found.requires_grad:
            raise UsageError(f"the loss of {self.task.origin} does not depend on the program's weights", hint="compute it from the outputs")
        return found

    def _rate(self, step: int, size: int) -> float:
        return self.settings.rate * 0.5 * (1 + math.cos(math.pi * step / (size * self.settings.epochs)))

    def _save(self, state: _State) -> None:
        if self.task.checkpoint is None:
            return
        tensors = {f"weight/{name}": t for name, t in self.student.parameters.items()}
        for index, entry in self.optimizer.state_dict()["state"].items():
            tensors |= {f"state/{index}/{key}": t for key, t in entry.items() if isinstance(t, torch.Tensor)}
        tensors["generator"] = torch.get_rng_state()
        facts = {"state": asdict(state), "epochs": [asdict(e) for e in self.epochs], "before": self.before}
        checkpoint.save(Checkpoint(tensors, facts, self.identity), self.task.checkpoint)

    def _resume(self, found: Checkpoint) -> _State:
        with torch.no_grad():
            for name, tensor in self.student.parameters.items():
                tensor.copy_(found.tensors[f"weight/{name}"])
        entries: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in found.tensors.items():
            kind, _, rest = name.partition("/")
            if kind == "state":
                index, _, key = rest.partition("/")
                entries.setdefault(int(index), {})[key] = tensor
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": entries})
        self.epochs, self.before = epochs_of(found.facts["epochs"]), found.facts["before"]
        state = _State(**found.facts["state"])
        self.progress.detail(f"train: going on from {self.task.checkpoint}, after {state.step} steps")
        return state


def _supervised(outputs: tuple[torch.Tensor, ...], target: object, loss: object, origin: str) -> torch.Tensor:
    if loss is None:
        if not isinstance(target, torch.Tensor):
            raise UsageError(f"the target is {type(target).__name__}, want a tensor", hint="give a loss of your own")
        return losses.supervised(outputs, target)
    assert callable(loss)
    found = loss(outputs[0] if len(outputs) == 1 else outputs, target)
    if not isinstance(found, torch.Tensor) or found.numel() != 1:
        raise UsageError(f"the loss of {origin} gives {getattr(found, 'shape', type(found).__name__)}, want a tensor of one number")
    return found.reshape(())


def _optimizer(student: Trainee, settings: Settings) -> torch.optim.Optimizer:
    """Adam's steps do not depend on the size of a gradient, so they are a share of each tensor's own size."""
    if settings.optimizer == "sgd":
        return torch.optim.SGD([{"params": list(student.parameters.values()), "share": 1.0}], lr=settings.rate, momentum=0.9)
    groups = [{"params": [t], "share": max(_size(t), _SMALL)} for t in student.weights.values()]
    groups += [{"params": [t], "share": _size(t)} for t in student.scales.values()]
    return torch.optim.Adam(groups, lr=settings.rate)


def _size(tensor: torch.Tensor) -> float:
    """The root mean square."""
    return float(tensor.detach().square().mean().sqrt())
