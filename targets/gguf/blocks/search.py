"""Scales of groups of weights that make their weighted squared error small.

The error as a function of the scale has many local minima, because the codes jump. So every search tries several
scales, and for the codes that each gives takes the scale (and minimum) of least error in closed form. Arrays are
[values of a group, groups]: sums over a group then run along whole rows of memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def extreme(x: Tensor) -> Tensor:
    """The value of largest magnitude of each group, with its sign, the positive one of two. x [n, groups] -> [groups]."""
    high, low = x.amax(0), x.amin(0)
    return torch.where(high >= -low, high, low)


def affine(x: Tensor, weight: Tensor, top: int, stretches: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Scale >= 0 and minimum <= 0 of each group, for codes 0..top. x, weight [n, groups] f32 -> [groups], [groups].

    The grids tried spread top + stretch steps over the range of the group; a group without a range has scale 0.
    """
    low, high = x.amin(0).clamp_(max=0), x.amax(0)
    spread = (x - low).mul_(_inverse(high - low))
    weighted = weight * x
    codes, product = torch.empty_like(x), torch.empty_like(x)
    sums = x.new_empty(3, len(stretches), x.shape[1])
    for index, stretch in enumerate(stretches):
        torch.mul(spread, top + stretch, out=codes).round_()
        if stretch > 0.5:
            codes.clamp_(max=top)
        torch.mul(weight, codes, out=product)
        torch.sum(product, 0, out=sums[0, index])
        torch.sum(product.mul_(codes), 0, out=sums[1, index])
        torch.sum(torch.mul(weighted, codes, out=product), 0, out=sums[2, index])
    w, wx = weight.sum(0), weighted.sum(0)
    wl, wll, wxl = sums
    determinant = w * wll - wl * wl
    scale, minimum = (w * wxl - wx * wl) / determinant, (wll * wx - wl * wxl) / determinant
    above = minimum > 0
    scale, minimum = torch.where(above, wxl / wll, scale), minimum.clamp_(max=0)
    error = scale * (scale * wll + 2 * (minimum * wl - wxl)) + minimum * (minimum * w - 2 * wx)
    error = torch.where((determinant > 0) & (scale > 0), error, torch.inf)
    least, best = error.min(0, keepdim=True)
    found = torch.isfinite(least[0])
    return torch.where(found, scale.gather(0, best)[0], 0.0), torch.where(found, minimum.gather(0, best)[0], low)


def symmetric(x: Tensor, weight: Tensor, low: int, stretches: Sequence[float]) -> Tensor:
    """Scale of each group, of either sign, for codes low..-low-1. x, weight [n, groups] f32 -> [groups].

    The grids tried put the value of largest magnitude at low - stretch; a group of zeros has scale 0.
    """
    inverse = _inverse(extreme(x))
    codes = torch.empty_like(x)
    sums = x.new_empty(2, len(stretches), x.shape[1])
    weighted = weight * x
    for index, stretch in enumerate(stretches):
        torch.mul(x, inverse * (low - stretch), out=codes).round_().clamp_(low, -low - 1)
        torch.sum(weighted * codes, 0, out=sums[0, index])
        torch.sum(codes.mul_(codes).mul_(weight), 0, out=sums[1, index])
    return _best(sums)


def nonlinear(x: Tensor, weight: Tensor, codebook: Tensor, shifts: Sequence[float]) -> Tensor:
    """Scale of each group for the numbers of a codebook, ascending. x, weight [n, groups] f32 -> [groups].

    The grids tried put the value of largest magnitude at codebook[0] + shift, on its sign.
    """
    inverse = _inverse(extreme(x))
    midpoints = (codebook[:-1] + codebook[1:]) / 2
    sums = x.new_empty(2, len(shifts), x.shape[1])
    weighted = weight * x
    for index, shift in enumerate(shifts):
        codes = codebook[torch.bucketize(x * (inverse * (codebook[0] + shift)), midpoints, right=True, out_int32=True)]
        torch.sum(weighted * codes, 0, out=sums[0, index])
        torch.sum(codes.mul_(codes).mul_(weight), 0, out=sums[1, index])
    return _best(sums)


def _best(sums: Tensor) -> Tensor:
    """The least-squares scale of the candidate that explains most. sums [2, candidates, groups]: of w x l and of w l l."""
    wxl, wll = sums
    scale = wxl * _inverse(wll)
    best: Tensor = (scale * wxl).argmax(0, keepdim=True)
    return scale.gather(0, best).view(-1)


def _inverse(field: Tensor) -> Tensor:
    return torch.where(field == 0, 0.0, field.reciprocal())
