"""Weights in integers: scales for each output channel or for groups along the summed axis, and the integers themselves."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from edgecc.quantization.affine import affine, dequantize, quantize
from edgecc.quantization.scheme import WeightFormat

#: Fractions of the largest magnitude that are tried as the end of the range where few bits make clipping pay.
_SHRINK = torch.linspace(0.5, 1.0, 51)


@dataclass(frozen=True)
class Ranges:
    """Scale f32 and zero point i32 of a weight seen as rows: [rows], each a channel or a group of one."""

    scale: torch.Tensor
    zero_point: torch.Tensor


def fits(weight: torch.Tensor, group: int) -> bool:
    """Whether each channel [out, ...] is made of whole groups."""
    return weight[0].numel() % group == 0


def rows(weight: torch.Tensor, axis: int, group: int) -> torch.Tensor:
    """The weight as rows that share a scale: [channels, rest], or [channels * rest / group, group] for groups (axis 0)."""
    if group:
        return weight.reshape(-1, group)
    return weight.movedim(axis, 0).flatten(1)


def choose(weight: torch.Tensor, axis: int, kind: WeightFormat) -> Ranges:
    """Ranges of each row: its extremes at 6 bits and more, below that the end that gives the least squared error.

    weight [...] f32 -> [rows]. Krishnamoorthi 2018, section 2; clipping by search as in Nagel et al. 2021, section 3.1.
    """
    seen = rows(weight, axis, kind.group).double()
    low, high = seen.amin(1), seen.amax(1)
    best = Ranges(*affine(low, high, kind.limits, symmetric=kind.symmetric))
    if kind.bits >= 6:
        return best
    least = _error(seen, best, kind)
    scale, zero_point = best.scale.clone(), best.zero_point.clone()
    for part in _SHRINK[:-1]:
        tried = Ranges(*affine(low * part, high * part, kind.limits, symmetric=kind.symmetric))
        error = _error(seen, tried, kind)
        better = error < least
        least = torch.where(better, error, least)
        scale, zero_point = torch.where(better, tried.scale, scale), torch.where(better, tried.zero_point, zero_point)
    return Ranges(scale, zero_point)


def _error(seen: torch.Tensor, found: Ranges, kind: WeightFormat) -> torch.Tensor:
    scale, zero_point = found.scale.double()[:, None], found.zero_point[:, None]
    return (seen - dequantize(quantize(seen, scale, zero_point, kind.limits), scale, zero_point)).square().sum(1)
