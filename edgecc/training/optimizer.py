"""The optimizer of a training run, and its state as named tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from edgecc.training.settings import Settings
from edgecc.training.trainee import Trainee

#: The least size of a weight that its steps are relative to, so that a bias of zeros is trained too. Shazeer and Stern 2018, section 8.
_SMALL = 1e-3
_PREFIX = "state/"


def create(student: Trainee, settings: Settings) -> torch.optim.Optimizer:
    """SGD with momentum 0.9, or Adam. `share` of a group is what its rate is times that of the run.

    Adam's steps do not depend on the size of a gradient, so they are a share of each tensor's own size.
    """
    if settings.optimizer == "sgd":
        return torch.optim.SGD([{"params": list(student.parameters.values()), "share": 1.0}], lr=settings.rate, momentum=0.9)
    groups = [{"params": [t], "share": max(_size(t), _SMALL)} for t in student.weights.values()]
    groups += [{"params": [t], "share": _size(t)} for t in student.scales.values()]
    return torch.optim.Adam(groups, lr=settings.rate)


def _size(tensor: torch.Tensor) -> float:
    """The root mean square."""
    return float(tensor.detach().square().mean().sqrt())


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * group["share"]


def rate(settings: Settings, step: int, steps: int) -> float:
    """Half a cosine from the first rate to 0. Loshchilov and Hutter 2017, equation 5."""
    return settings.rate * 0.5 * (1 + math.cos(math.pi * step / steps))


def tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The state of every parameter, by its position."""
    entries = optimizer.state_dict()["state"].items()
    return {f"{_PREFIX}{index}/{key}": t for index, entry in entries for key, t in entry.items() if isinstance(t, torch.Tensor)}


def restore(optimizer: torch.optim.Optimizer, found: Mapping[str, torch.Tensor]) -> None:
    """Take the state from tensors that `tensors` named; others are passed over."""
    entries: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in found.items():
        if name.startswith(_PREFIX):
            index, _, key = name.removeprefix(_PREFIX).partition("/")
            entries.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": entries})
