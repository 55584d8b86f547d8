"""Scales of groups of weights that make their squared error small.

The error as a function of the scale has many local minima, because the codes jump. So every search tries several
scales, and for the codes that each gives takes the scale (and minimum) of least error in closed form. Arrays are
[values of a group, groups]: sums over a group then run along whole rows of memory. A `weight` of the same shape says
how much the error of each value counts; None counts all alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Rounding = Callable[[Tensor, Tensor], Tensor]  # scaled values, where to put the nearest numbers that a code can mean


def extreme(x: Tensor) -> Tensor:
    """The value of largest magnitude of each group, with its sign, the positive one of two. x [n, groups] -> [groups]."""
    high, low = x.amax(0), x.amin(0)
    return torch.where(high >= -low, high, low)


def inverse(field: Tensor) -> Tensor:
    """One over each number, zero for zero and for what is too small to have a finite one."""
    found = field.reciprocal()
    return torch.where(found.isinf(), 0.0, found)


def affine(x: Tensor, weight: Tensor | None, top: int, stretches: Sequence[float], *, below: bool) -> tuple[Tensor, Tensor]:
    """Scale >= 0 and minimum of each group, for codes 0..top; the minimum at most zero if `below`. x [n, groups] f32 -> [groups], [groups].

    The grids tried spread top + stretch steps over the range of the group, and one more is the best of them rounded
    again. A group without a range has scale 0, and one whose squares are not finite has a scale that is not finite or is large.
    """
    low, high = x.amin(0), x.amax(0)
    if below:
        low.clamp_(max=0)
    shifted = x - low
    weighted = shifted if weight is None else weight * shifted
    codes, product = torch.empty_like(x), torch.empty_like(x)
    sums = x.new_empty(3, len(stretches) + 1, x.shape[1])
    one = inverse(high - low)
    for index, stretch in enumerate(stretches):
        torch.mul(shifted, one * (top + stretch), out=codes).round_()
        if stretch > 0.4:
            codes.clamp_(max=top)
        moments(codes, weighted, weight, product, sums[:, index])
    w, wx = total(weight, x), weighted.sum(0)
    highest = -low if below else torch.full_like(low, torch.inf)
    scale, minimum, _ = _line(w, wx, sums[:, :-1], highest)
    torch.sub(shifted, minimum, out=codes).mul_(inverse(scale)).round_().clamp_(0, top)
    moments(codes, weighted, weight, product, sums[:, -1])
    scale, minimum, found = _line(w, wx, sums, highest)
    return torch.where(found, scale, (high - low) / top), low + torch.where(found, minimum, 0.0)


def _line(w: Tensor, wx: Tensor, sums: Tensor, highest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scale and minimum <= highest of the best candidate, and where there is one. w, wx [groups]; sums [3, candidates, groups]: see `moments`."""
    wl, wll, wxl = sums.unbind(0)
    determinant = w * wll - wl * wl
    minimum = torch.minimum((wll * wx - wl * wxl) / determinant, highest)
    scale = (wxl - minimum * wl) / wll
    error = scale * (scale * wll + 2 * (minimum * wl - wxl)) + minimum * (minimum * w - 2 * wx)
    least, best = torch.where((determinant > 0) & (scale > 0), error, torch.inf).min(0, keepdim=True)
    return scale.gather(0, best)[0], minimum.gather(0, best)[0], torch.isfinite(least[0])


def moments(codes: Tensor, weighted: Tensor, weight: Tensor | None, product: Tensor, out: Tensor) -> None:
    """Sums of w l, w l l and w x l of each group into out [3, groups]; overwrites `product`."""
    torch.sum(torch.mul(weighted, codes, out=product), 0, out=out[2])
    scaled = codes if weight is None else torch.mul(weight, codes, out=product)
    torch.sum(scaled, 0, out=out[0])
    torch.sum(torch.mul(scaled, codes, out=product), 0, out=out[1])


def symmetric(x: Tensor, weight: Tensor | None, nearest: Rounding, lows: Sequence[float]) -> Tensor:
    """Scale of each group, of either sign. x [n, groups] f32 -> [groups].

    The grids tried put the value of largest magnitude at each of `lows`, numbers near the lowest that a code can mean;
    a group of zeros has scale 0.
    """
    one = inverse(extreme(x))
    codes, product = torch.empty_like(x), torch.empty_like(x)
    sums = x.new_empty(2, len(lows), x.shape[1])
    weighted = x if weight is None else weight * x
    for index, low in enumerate(lows):
        nearest(torch.mul(x, one * low, out=product), codes)
        torch.sum(torch.mul(weighted, codes, out=product), 0, out=sums[0, index])
        codes.mul_(codes)
        torch.sum(codes if weight is None else codes.mul_(weight), 0, out=sums[1, index])
    wxl, wll = sums.unbind(0)
    scale = wxl * inverse(wll)
    _, best = (scale * wxl).max(0, keepdim=True)
    return scale.gather(0, best).view(-1)


def total(weight: Tensor | None, x: Tensor) -> Tensor:
    return x.new_full((x.shape[1],), float(len(x))) if weight is None else weight.sum(0)
