"""fuse-gelu: the Gaussian error linear unit, spelled out, becomes one operator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from edgecc.rewrite.rewrite_pass import RewritePass, Rule

_ROOT = math.sqrt(2 / math.pi)


def _erf(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def _erf_distributed(x: Tensor) -> Tensor:
    return 0.5 * x + 0.5 * x * torch.erf(x / math.sqrt(2))


def _erf_shared(x: Tensor) -> Tensor:
    half = 0.5 * x
    return half + half * torch.erf(x / math.sqrt(2))


def _tanh(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(_ROOT * (x + 0.044715 * x**3)))


def _tanh_factored(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(_ROOT * x * (1 + 0.044715 * x * x)))


def _tanh_distributed(x: Tensor) -> Tensor:
    return 0.5 * x + 0.5 * x * torch.tanh(_ROOT * (x + 0.044715 * x**3))


def _tanh_shared(x: Tensor) -> Tensor:
    half = 0.5 * x
    return half + half * torch.tanh(_ROOT * (x + 0.044715 * x**3))


def _sigmoid(x: Tensor) -> Tensor:
    """`(1 + tanh(u)) / 2 = sigmoid(2 * u)`."""
    return x * torch.sigmoid(2 * _ROOT * (x + 0.044715 * x**3))


def _sigmoid_factored(x: Tensor) -> Tensor:
    return x * torch.sigmoid(2 * _ROOT * x * (1 + 0.044715 * x * x))


def _quick(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def _exact(x: Tensor) -> Tensor:
    return F.gelu(x)


def _approximate(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


_RULES = (
    Rule(_erf, _exact),
    Rule(_erf_distributed, _exact),
    Rule(_erf_shared, _exact),
    Rule(_tanh, _approximate),
    Rule(_tanh_factored, _approximate),
    Rule(_tanh_distributed, _approximate),
    Rule(_tanh_shared, _approximate),
    Rule(_sigmoid, _approximate),
    Rule(_sigmoid_factored, _approximate),
    Rule(_quick, None, lambda match: "x * sigmoid(1.702 * x) differs from GELU by up to 0.02"),
)


@dataclass(frozen=True)
class FuseGelu(RewritePass):
    """`x * Phi(x)` by `erf`, `erfc` or the normal distribution, and its tanh form, to `aten.gelu`. Hendrycks and Gimpel 2016, section 2.

    `x * sigmoid(1.702 * x)` is another function and is left alone.
    """

    name = "fuse-gelu"
    anchors = frozenset({"erf", "tanh", "sigmoid"})

    def rules(self) -> Sequence[Rule]:
        return _RULES
