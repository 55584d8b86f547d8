"""fuse-silu: `x * sigmoid(x)` becomes one operator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from edgecc.rewrite.rewrite_pass import RewritePass, Rule


def _sigmoid(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def _exponential(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def _tanh(x: Tensor) -> Tensor:
    """`sigmoid(x) = (1 + tanh(x / 2)) / 2`."""
    return 0.5 * x * (1 + torch.tanh(x / 2))


def _silu(x: Tensor) -> Tensor:
    return F.silu(x)


_RULES = (Rule(_sigmoid, _silu), Rule(_exponential, _silu), Rule(_tanh, _silu))


@dataclass(frozen=True)
class FuseSilu(RewritePass):
    """`x * sigmoid(x)` to `aten.silu`. Elfwing, Uchibe and Doya 2018, equation 3; with another scale inside it is left alone."""

    name = "fuse-silu"
    anchors = frozenset({"sigmoid", "exp", "tanh"})

    def rules(self) -> Sequence[Rule]:
        return _RULES
