"""Settings of a training run: how long, how fast, and what is learned besides the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from edgecc.diagnostics import nearest
from edgecc.errors import UsageError

OPTIMIZERS = ("sgd", "adam")
TEACHERS = ("", "kl", "mse")


@dataclass(frozen=True)
class Settings:
    """`lr`: the first learning rate, which falls to 0 along half a cosine (Loshchilov and Hutter 2017, equation 5, one cycle);
    0 for the optimizer's usual one. With `adam` it is relative to the root mean square of each tensor (Shazeer and Stern 2018,
    section 8), because folding leaves weights of very different sizes. `clip`: largest norm of all gradients together, 0 for no limit. `learn_scales`: scales are
    trained too (Esser et al. 2020, LSQ). `teacher`: the float program's outputs are learned, by `kl` with `temperature` (Hinton
    et al. 2015, section 2) or by `mse`, and `labels` is the share that the targets keep in the loss. `every`: steps between two
    checkpoints, besides those after each epoch.
    """

    epochs: int = 2
    optimizer: str = "adam"
    lr: float = 0.0
    clip: float = 10.0
    learn_scales: bool = True
    teacher: str = ""
    temperature: float = 4.0
    labels: float = 0.0
    every: int = 50

    def __post_init__(self) -> None:
        """Raises UsageError for a value out of range."""
        _one_of("optimizer", self.optimizer, OPTIMIZERS)
        _one_of("teacher", self.teacher, TEACHERS)
        for name in ("epochs", "every"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}, want at least 1")
        for name in ("lr", "clip"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"{name} is {getattr(self, name):g}, want a finite number of at least 0")
        if not 0 < self.temperature < math.inf or not 0 <= self.labels <= 1:
            raise UsageError(f"temperature is {self.temperature:g}, want more than 0; labels is {self.labels:g}, want 0 to 1")

    @property
    def rate(self) -> float:
        """The first learning rate."""
        return self.lr or {"sgd": 1e-3, "adam": 2e-3}[self.optimizer]

    def filled(self, given: Mapping[str, Any], origin: str) -> Settings:
        """With the given values where these settings are the defaults. Raises UsageError for an unknown name or a wrong type."""
        names = [f.name for f in fields(self)]
        changed: dict[str, Any] = {}
        for name, value in given.items():
            if name not in names:
                raise UsageError(f"{origin} gives {name!r}, which is no setting of training", hint=nearest(name, names))
            default = getattr(_DEFAULT, name)
            value = float(value) if isinstance(default, float) and type(value) is int else value
            if type(value) is not type(default):
                raise UsageError(f"{origin} gives {name} = {value!r}, want {type(default).__name__} such as {default!r}")
            if getattr(self, name) == default:
                changed[name] = value
        return replace(self, **changed)


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"{name} is {value!r}, want one of {', '.join(repr(k) for k in known)}", hint=nearest(value, filter(None, known)))


_DEFAULT = Settings()
