"""Factories that go wrong in every way a user's can, and models at the edge of what a compiler expects."""

from __future__ import annotations

import os
import sys

import torch
from torch import nn

X = torch.linspace(-1, 1, 8).reshape(2, 4)


class Lambda(nn.Module):
    """A function of x as a module, with a weight w [4] and an integer buffer."""

    def __init__(self, function, weight=True):
        super().__init__()
        self.function = function
        if weight:
            self.w = nn.Parameter(torch.arange(4.0))
            self.register_buffer("steps", torch.arange(3))

    def forward(self, x):
        return self.function(self, x)


def _of(function, x=X, weight=False):
    return Lambda(function, weight), (x,)


def no_parameters():
    return _of(lambda _, x: x.relu())


def scalar_output():
    return _of(lambda _, x: x.sum())


def duplicate_outputs():
    def forward(_, x):
        y = x.relu()
        return y, {"again": y}, y

    return _of(forward)


def returns_its_input_and_weights():
    return _of(lambda self, x: (x, self.w, self.steps, x + self.w), weight=True)


def returns_its_input_only():
    return _of(lambda _, x: x)


def returns_a_weight_only():
    return _of(lambda self, x: self.w, weight=True)


def integers_only():
    return _of(lambda _, x: (x * 2 + 1, x.sum(1)), torch.ones(2, 4, dtype=torch.int64))


def not_a_number():
    return _of(lambda _, x: (-1 - x.abs()).log())


def infinite():
    return _of(lambda _, x: 1 / (x - x))


def huge_constant_output():
    return _of(lambda _, x: (x.relu(), torch.full((512, 512), 3.0)))


def empty_tensors():
    return _of(lambda _, x: x.relu(), torch.zeros(0, 4))


def no_inputs():
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.arange(-2.0, 2.0))

        def forward(self):
            return self.w.relu()

    return Constant(), ()


def returns_nothing():
    return _of(lambda _, x: None)


class Exotic(nn.Module):
    def forward(self, x):
        gram = x @ x.mT
        values = torch.linalg.eigvalsh(gram)
        bessel = torch.special.i0(values)
        return torch.erfinv(bessel.tanh())


def exotic():
    return Exotic(), (X,)


class Branches(nn.Module):
    def forward(self, x):
        length = int(x.sum().item())
        return x[:, :length]


def branches():
    return Branches(), (X,)


def random():
    return _of(lambda _, x: x + torch.rand_like(x))


def fails_in_forward():
    def forward(_, x):
        raise RuntimeError("no weather data")

    return _of(forward)


def exits_in_forward():
    return _of(lambda _, x: sys.exit(0))


def architecture():
    return nn.Sequential(nn.Linear(4, 3))


def with_nan_weights():
    module = nn.Linear(4, 3)
    module.register_buffer("mean", torch.tensor([float("nan")]))
    with torch.no_grad():
        module.weight[0, :2] = float("nan")
        module.bias[1] = float("inf")
    return module, (X,)


def raises():
    raise KeyError("config")


def exits():
    sys.exit(0)


class NotAnException(BaseException):
    pass


def raises_what_is_no_exception():
    raise NotAnException("from far below")


def imports_what_is_missing():
    import no_such_package_anywhere  # noqa: F401  it fails


def returns_a_number():
    return 42


def returns_three_things():
    return nn.ReLU(), X, X


def returns_a_class():
    return nn.ReLU


def returns_bad_examples():
    return nn.ReLU(), "x"


def changes_the_folder():
    os.chdir("/")
    return no_parameters()
