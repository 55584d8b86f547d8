"""Task: what a program is trained on, as the user gave it, one batch at a time, with the user's own errors named."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgecc.errors import EdgeccError, UsageError

Loss = Callable[[Any, Any], torch.Tensor]
_HINT = "give an iterable of (inputs, target), a dict with it as 'data', or a function that returns one of these"


@dataclass(frozen=True)
class Item:
    """One batch as it was given: inputs are a tensor, a tuple, or a dict by name; the target may be None."""

    inputs: Any
    target: Any = None


@dataclass(frozen=True)
class Opened:
    """What the user gave, called where it is a function. `settings` are the keys of the dict besides `data` and `loss`."""

    data: Iterable[Any]
    loss: Loss | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def once(self) -> bool:
        """Whether the data can be gone through only once, as a generator."""
        return iter(self.data) is self.data


@dataclass(frozen=True)
class Task:
    """`given`: an iterable of batches, a dict with it as `data`, or a function of nothing that returns one of these. `origin` is
    what errors call it. `checkpoint`: the file that a run goes on from; `log`: the folder that TensorBoard reads.
    """

    given: Any
    origin: str = "the training data"
    checkpoint: Path | None = None
    log: Path | None = None

    def open(self) -> Opened:
        """Raises UsageError for what is no data, and for what the user's code raises."""
        with self._named(""):
            made = self.given() if callable(self.given) and not isinstance(self.given, Iterable) else self.given
        loss, settings = None, {}
        if isinstance(made, Mapping):
            settings = {str(k): v for k, v in made.items() if k not in ("data", "loss")}
            loss, made = made.get("loss"), made.get("data")
        if loss is not None and not callable(loss):
            raise UsageError(f"{self.origin} gives a loss that is {type(loss).__name__}, want a function of outputs and target")
        with self._named(""):
            made = made() if callable(made) and not isinstance(made, Iterable) else made
        if not isinstance(made, Iterable) or isinstance(made, (str, torch.Tensor)):
            raise UsageError(f"{self.origin} gives {type(made).__name__}, want batches", hint=_HINT)
        return Opened(made, loss, settings)

    def batches(self, opened: Opened) -> Iterator[Item]:
        """One pass through the data; batches that are a sequence come in an order drawn from torch's generator.

        Raises UsageError that names the batch for what the user's code raises.
        """
        data = opened.data
        if isinstance(data, Sequence):
            data = [data[i] for i in torch.randperm(len(data)).tolist()]
        with self._named(" before the first batch"):
            items = iter(data)
        index = 0
        while True:
            with self._named(f" at batch {index}"):
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield _item(item)
            index += 1

    @contextmanager
    def _named(self, where: str) -> Iterator[None]:
        try:
            yield
        except EdgeccError:
            raise
        except Exception as error:  # the user's code may raise anything
            raise UsageError(f"{self.origin} failed{where}: {type(error).__name__}: {error}") from error


def _item(given: Any) -> Item:
    return Item(*given) if isinstance(given, (tuple, list)) and len(given) == 2 else Item(given)


@contextmanager
def seeded(seed: int, epoch: int) -> Iterator[None]:
    """Let torch, numpy and random draw from a seed of their own meanwhile, and go on as before afterwards."""
    mixed = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
    ours, theirs = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mixed)
        random.seed(mixed)
        np.random.seed(mixed)
        try:
            yield
        finally:
            random.setstate(ours)
            np.random.set_state(theirs)
