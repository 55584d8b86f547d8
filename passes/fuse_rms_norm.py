"""fuse-rms-norm: root-mean-square normalization, spelled out, becomes one operator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from edgecc.rewrite.rewrite_pass import Match, RewritePass, Rule

aten = torch.ops.aten
_EPS = 1.2345e-5


def _normalized(x: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


def _scaled(x: Tensor, weight: Tensor, eps: float = _EPS) -> Tensor:
    return _normalized(x, eps) * weight


def _plain(x: Tensor, eps: float = _EPS) -> Tensor:
    return _normalized(x, eps)


def _with_weight(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x, [x.shape[-1]], weight, eps)


def _without(x: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x, [x.shape[-1]], None, eps)


def _separate_weight(x: Tensor, weight: Tensor, eps: float = _EPS) -> Tensor:
    return F.rms_norm(x, (8,), eps=eps) * weight


def _outside(x: Tensor, eps: float = _EPS) -> Tensor:
    return x / (torch.sqrt(x.square().mean(-1, keepdim=True)) + eps)


def _is_vector(match: Match) -> str | None:
    """Whether the normalized axis is static and the weight holds one number for each of its entries."""
    x, size = match["x"], match.shape("x")[-1]
    if isinstance(x, fx.Node) and x.target == aten.sub.Tensor and _is_mean_of(x.args[1], x.args[0]):
        return "the mean is subtracted first: that is layer_norm"
    if not isinstance(size, int):
        return f"the normalized axis has the symbolic size {size}"
    if "weight" in match.bindings and match.shape("weight") != (size,):
        return f"weight has shape {list(match.shape('weight'))}, want [{size}]"
    return None


def _is_mean_of(mean: object, x: object) -> bool:
    return isinstance(mean, fx.Node) and mean.target == aten.mean.dim and mean.args[0] is x


_RULES = (
    Rule(_scaled, _with_weight, _is_vector),
    Rule(_plain, _without, _is_vector),
    Rule(_separate_weight, _with_weight, _is_vector),
    Rule(_outside, None, lambda match: "eps is added to the root, rms_norm adds it to the mean square"),
)


@dataclass(frozen=True)
class FuseRmsNorm(RewritePass):
    """`x / sqrt(mean(x**2) + eps) * weight` to `aten.rms_norm`. Zhang and Sennrich 2019, equation 4.

    A weight that is computed, such as Gemma's `1 + w`, stays computed. Casts to float32 and back are looked through
    where the value is float32 already; where they change the dtype the spelling is left alone.
    """

    name = "fuse-rms-norm"
    anchors = frozenset({"mean", "rms_norm"})

    def rules(self) -> Sequence[Rule]:
        return _RULES
