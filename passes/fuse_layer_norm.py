"""fuse-layer-norm: layer normalization, spelled out, becomes one operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from edgecc.rewrite.rewrite_pass import Match, RewritePass, Rule

_EPS = 1.2345e-5
_AFFINE = {"weight": (8,), "bias": (8,)}
Normalize = Callable[[Tensor, float], Tensor]


def _two_pass(axis: int) -> Normalize:
    """`(x - mean) / sqrt(mean((x - mean)**2) + eps)`."""

    def normalize(x: Tensor, eps: float) -> Tensor:
        centred = x - x.mean(axis, keepdim=True)
        return centred * torch.rsqrt(centred.square().mean(axis, keepdim=True) + eps)

    return normalize


def _moments(axis: int) -> Normalize:
    """`(x - mean) / sqrt(mean(x**2) - mean**2 + eps)`."""

    def normalize(x: Tensor, eps: float) -> Tensor:
        mean = x.mean(axis, keepdim=True)
        return (x - mean) * torch.rsqrt(x.square().mean(axis, keepdim=True) - mean * mean + eps)

    return normalize


def _layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, axis: int) -> Tensor:
    """layer_norm over one axis: the last one as it is, another one moved there and back."""
    order = [i for i in range(x.dim()) if i != x.dim() + axis]
    moved = x if axis == -1 else x.permute([*order, x.dim() + axis])
    size = [moved.shape[-1]]
    result = F.layer_norm(moved, size, _vector(weight), _vector(bias), eps)
    if axis == -1:
        return result
    back = list(range(x.dim() - 1))
    back.insert(x.dim() + axis, x.dim() - 1)
    return result.permute(back)


def _vector(parameter: Tensor | None) -> Tensor | None:
    return parameter if parameter is None or parameter.dim() == 1 else parameter.reshape(-1)


def _is_vector(match: Match, axis: int) -> str | None:
    """Whether weight and bias hold one number for each entry of the axis and nothing else."""
    rank, size = len(match.shape("x")), match.shape("x")[axis]
    if axis != -1 and rank + axis != 1:
        return f"axis {rank + axis} of {rank} is normalized, want the last axis or channels first (axis 1)"
    if abs(match.scale) != 1:
        return f"the result is scaled by {match.scale:.6g}, as an unbiased variance does; layer_norm divides by the count"
    if not isinstance(size, int):
        return f"the normalized axis has the symbolic size {size}"
    for name in ("weight", "bias"):
        if name in match.bindings:
            shape = match.shape(name)
            padded = (1,) * (-axis - len(shape)) + shape
            if any(s != (size if i == len(padded) + axis else 1) for i, s in enumerate(padded)):
                return f"{name} has shape {list(shape)}, want {size} numbers along axis {axis}"
    return None


def _spelled_out(normalize: Normalize, axis: int) -> tuple[Rule, ...]:
    """With weight and bias, with a weight, and with neither."""

    def where(match: Match) -> str | None:
        return _is_vector(match, axis)

    return (
        Rule(
            lambda x, weight, bias, eps=_EPS: normalize(x, eps) * weight + bias,
            lambda x, weight, bias, eps: _layer_norm(x, weight, bias, eps, axis),
            where,
        ),
        Rule(lambda x, weight, eps=_EPS: normalize(x, eps) * weight, lambda x, weight, eps: _layer_norm(x, weight, None, eps, axis), where),
        Rule(lambda x, eps=_EPS: normalize(x, eps), lambda x, eps: _layer_norm(x, None, None, eps, axis), where),
    )


def _last(match: Match) -> str | None:
    return _is_vector(match, -1)


_SEPARATE_AFFINE = (
    Rule(
        lambda x, weight, bias, eps=_EPS: F.layer_norm(x, (8,), eps=eps) * weight + bias,
        lambda x, weight, bias, eps: _layer_norm(x, weight, bias, eps, -1),
        _last,
    ),
    Rule(
        lambda x, weight, eps=_EPS: F.layer_norm(x, (8,), eps=eps) * weight,
        lambda x, weight, eps: _layer_norm(x, weight, None, eps, -1),
        _last,
    ),
    Rule(
        lambda x, weight, bias, eps=_EPS: F.layer_norm(x, (8,), weight, eps=eps) + bias,
        lambda x, weight, bias, eps: _layer_norm(x, weight, bias, eps, -1),
        _last,
        _AFFINE,
    ),
)


def _outside(x: Tensor, eps: float = _EPS) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (torch.sqrt(centred.square().mean(-1, keepdim=True)) + eps)


_LOOK_ALIKES = (Rule(_outside, None, lambda match: "eps is added to the standard deviation, layer_norm adds it to the variance"),)

_RULES = (
    *(rule for axis in (-1, -3, -2) for normalize in (_two_pass(axis), _moments(axis)) for rule in _spelled_out(normalize, axis)),
    *_SEPARATE_AFFINE,
    *_LOOK_ALIKES,
)


@dataclass(frozen=True)
class FuseLayerNorm(RewritePass):
    """`(x - mean) / sqrt(variance + eps) * weight + bias` to `aten.layer_norm`. Ba, Kiros and Hinton 2016, equation 4.

    Normalizes the last axis; channels first (axis 1 of 3 or 4) becomes permute, layer_norm, permute. A scale and a
    shift that follow `layer_norm` are taken into it.
    """

    name = "fuse-layer-norm"
    anchors = frozenset({"mean", "layer_norm"})

    def rules(self) -> Sequence[Rule]:
        return _RULES
