"""Scales of a block of several groups: an f16 for the block times a small integer for each group.

A best scale for each group, rounded to such a product afterwards, loses some of what its search won. So where there are
minima too, the factors are fitted to the integers, and then each group tries the neighbours of its integer on the grid
that the file will hold.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgecc.targets.gguf.blocks import search
from edgecc.targets.gguf.blocks.formats import Format
from edgecc.targets.gguf.blocks.packing import Stored


def signed(scale: Tensor, format: Format) -> Stored:
    """Scales [groups] of either sign; the one of largest magnitude in its block becomes the lowest integer."""
    low = -(1 << (format.scale_bits - 1))
    blocks = scale.view(-1, format.groups)
    d = (search.extreme(blocks.t())[:, None] / low).half()
    integers = (blocks * search.inverse(d.float())).round_().clamp_(low, -low - 1)
    return Stored(d, None, integers.to(torch.int8))


def above(x: Tensor, weight: Tensor | None, scale: Tensor, minimum: Tensor, format: Format) -> Stored:
    """Scales >= 0 and minima <= 0 [groups] of the values x [n, groups], refined on the stored grid, twice where there are weights."""
    top = (1 << format.scale_bits) - 1
    (d, step), (m, below) = _shares(scale, format), _shares(-minimum, format)
    trial = _Trial(x, weight, format)
    wide, deep = _spread(d, format), _spread(m, format)
    for _ in range(1 if weight is None else 2):
        trial.round(wide * step, deep * below)
        d, m = _factors(trial, d, m, step, below, format)
        wide, deep = _spread(d, format), _spread(m, format)
        step, below = _neighbours(trial, wide, deep, step, below, top)
    return Stored(d, m, step.to(torch.int8), below.to(torch.int8))


def _neighbours(trial: _Trial, wide: Tensor, deep: Tensor, step: Tensor, below: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Of each integer of a scale and the two beside it the best, each with its best depth for the codes of the present depth."""
    per_weight = search.inverse(trial.w * deep)
    least, steps, depths = torch.full_like(step, torch.inf), step, below
    for neighbour in (step, (step - 1).clamp_(min=0), (step + 1).clamp_(max=top)):
        width = wide * neighbour
        trial.round(width, deep * below)
        depth = ((width * trial.wl - trial.wx) * per_weight).round_().clamp_(0, top)
        error = trial.error(width, depth * deep)
        better = error < least
        least, steps, depths = torch.where(better, error, least), torch.where(better, neighbour, steps), torch.where(better, depth, depths)
    return steps, depths


class _Trial:
    """Codes of all groups under some scales, and the weighted sums that give the error of others for the same codes."""

    def __init__(self, x: Tensor, weight: Tensor | None, format: Format) -> None:
        self._x, self._weight, self._top = x, weight, format.high
        self._weighted = x if weight is None else weight * x
        self._codes, self._product = torch.empty_like(x), torch.empty_like(x)
        self._sums = x.new_empty(3, x.shape[1])
        self.w, self.wx = search.total(weight, x), self._weighted.sum(0)
        self.wl, self.wll, self.wxl = self._sums.unbind(0)

    def round(self, scale: Tensor, depth: Tensor) -> None:
        """Take the codes of these scales and depths [groups]."""
        torch.add(self._x, depth, out=self._codes).mul_(search.inverse(scale)).round_().clamp_(0, self._top)
        search.moments(self._codes, self._weighted, self._weight, self._product, self._sums)

    def error(self, scale: Tensor, depth: Tensor) -> Tensor:
        """Weighted squared error of each group were these its scales and depths, less that of all zeros."""
        return scale * (scale * self.wll - 2 * (depth * self.wl + self.wxl)) + depth * (depth * self.w + 2 * self.wx)


def _factors(trial: _Trial, d: Tensor, m: Tensor, step: Tensor, below: Tensor, format: Format) -> tuple[Tensor, Tensor]:
    """The factors [blocks, 1] f16 of scales and depths that are best for integers and codes; the given ones where there are none."""

    def total(field: Tensor) -> Tensor:
        return field.view(-1, format.groups).sum(1, keepdim=True)

    ss, bb, sb = total(step * step * trial.wll), total(below * below * trial.w), total(step * below * trial.wl)
    sx, bx = total(step * trial.wxl), total(below * trial.wx)
    determinant = ss * bb - sb * sb
    wide, deep = (sx * bb - bx * sb) / determinant, (sx * sb - bx * ss) / determinant
    found = (determinant > 0) & (wide > 0) & (deep > 0)
    return torch.where(found, wide, d.float()).half(), torch.where(found, deep, m.float()).half()


def _shares(field: Tensor, format: Format) -> tuple[Tensor, Tensor]:
    """field [groups] >= 0 -> the factor of each block [blocks, 1] f16 and the integer of each group [groups] f32."""
    top = (1 << format.scale_bits) - 1
    blocks = field.view(-1, format.groups)
    largest = blocks.amax(1, keepdim=True)
    return (largest / top).half(), (blocks * search.inverse(largest) * top).round_().view(-1)


def _spread(factor: Tensor, format: Format) -> Tensor:
    return factor.float().expand(-1, format.groups).reshape(-1)
