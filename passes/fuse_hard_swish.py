"""fuse-hard-swish: hard swish and hard sigmoid, spelled out, become one operator each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from edgecc.rewrite.rewrite_pass import RewritePass, Rule


def _hard_swish(x: Tensor) -> Tensor:
    return x * F.relu6(x + 3) / 6


def _hard_sigmoid(x: Tensor) -> Tensor:
    return F.relu6(x + 3) / 6


def _swish_operator(x: Tensor) -> Tensor:
    return F.hardswish(x)


def _sigmoid_operator(x: Tensor) -> Tensor:
    return F.hardsigmoid(x)


_RULES = (Rule(_hard_swish, _swish_operator), Rule(_hard_sigmoid, _sigmoid_operator))


@dataclass(frozen=True)
class FuseHardSwish(RewritePass):
    """`x * relu6(x + 3) / 6` to `aten.hardswish`, and the factor alone to `aten.hardsigmoid`. Howard et al. 2019, section 5.2."""

    name = "fuse-hard-swish"
    anchors = frozenset({"clamp"})

    def rules(self) -> Sequence[Rule]:
        return _RULES
