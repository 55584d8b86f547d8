"""Choose the scales of a matrix of weights, as its file will hold them.

The error of a weight counts as much as its column's importance, the mean square of the input that multiplies it, and
all alike without one: the sum is then the expected error of the product. (ggml counts large weights more.)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edgecc.targets.gguf.blocks import search
from edgecc.targets.gguf.blocks.codebook import levels
from edgecc.targets.gguf.blocks.formats import Format
from edgecc.targets.gguf.blocks.packing import Stored


def _even(first: float, last: float, count: int) -> tuple[float, ...]:
    return tuple(first + (last - first) * step / (count - 1) for step in range(count))


# How many steps more than the format has the range of a group is spread over, in each try. Fewer steps than there are
# cut off the outermost values: worth it for a few of many groups, and more often where steps are small.
STRETCHES: dict[str, Sequence[float]] = {
    "q4_0": _even(-1.5, 1.5, 9),
    "q5_0": _even(-2, 1, 9),
    "q4_1": _even(-2, 1, 12),
    "q5_1": _even(-3, 1, 12),
    "q2_k": _even(-2, 1, 8),
    "q3_k": _even(-0.9, 1.5, 7),
    "q4_k": _even(-2, 1, 12),
    "q5_k": _even(-3, 1, 12),
    "q6_k": _even(-4, 1, 7),
    "iq4_nl": _even(-20, 20, 9),
    "iq4_xs": _even(-20, 20, 9),
}


def fit_rows(values: Tensor, format: Format, importance: Tensor | None) -> Stored:
    """Scales of a few rows. values [rows, cols] f32, importance [cols] f32 > 0 or None. q8_0 is not searched: its steps are fine enough."""
    rows = len(values)
    x = values.view(-1, format.group).t().contiguous()
    if format.name == "q8_0":
        return Stored((x.abs().amax(0) / format.high).half()).shaped(rows)
    weight = None if importance is None else importance.view(-1, format.group).t()[:, None].expand(-1, rows, -1).reshape(x.shape)
    if format.minimum:
        scale, minimum = search.affine(x, weight, format.high, STRETCHES[format.name])
        stored = _above(x, weight, scale, -minimum, format) if format.scale_bits else Stored(scale.half(), minimum.half())
    else:
        lowest = format.codebook[0] if format.codebook else format.low
        scale = search.symmetric(x, weight, _nearest(format), [lowest - stretch for stretch in STRETCHES[format.name]])
        stored = _signed(scale, format) if format.scale_bits else Stored(scale.half())
    return stored.shaped(rows)


def _nearest(format: Format) -> search.Rounding:
    if format.codebook:
        return lambda scaled, out: levels(scaled, format, out)
    return lambda scaled, out: torch.round(scaled, out=out).clamp_(format.low, format.high)


def _signed(scale: Tensor, format: Format) -> Stored:
    """Scales [groups] as integers times a factor of their block; the one of largest magnitude becomes the lowest integer."""
    low = -(1 << (format.scale_bits - 1))
    blocks = scale.view(-1, format.groups)
    d = (search.extreme(blocks.t())[:, None] / low).half()
    integers = (blocks * search.inverse(d.float())).round_().clamp_(low, -low - 1)
    return Stored(d, None, integers.to(torch.int8))


def _above(x: Tensor, weight: Tensor | None, scale: Tensor, depth: Tensor, format: Format) -> Stored:
    """Scales and depths below zero [groups], each as integers times a factor of the block.

    Rounded apart, the two do not go together well: of each group's integer and its neighbours, each with the depth that
    is best for the codes which the rounded pair gives, the one of least error stays.
    """
    top = (1 << format.scale_bits) - 1
    (d, wide, integer), (m, deep, below) = _shares(scale, format), _shares(depth, format)
    weighted = x if weight is None else weight * x
    w, wx = search.total(weight, x), weighted.sum(0)
    codes = (x + deep * below).mul_(search.inverse(wide * integer)).round_().clamp_(0, format.high)
    sums = x.new_empty(3, x.shape[1])
    search.moments(codes, weighted, weight, torch.empty_like(x), sums)
    wl, wll, wxl = sums.unbind(0)
    integers = (integer + torch.tensor([[0.0], [-1.0], [1.0]])).clamp_(0, top)
    s = integers * wide
    depths = ((s * wl - wx) / w * search.inverse(deep)).round_().clamp_(0, top)
    o = depths * deep
    _, best = (s * (s * wll - 2 * (o * wl + wxl)) + o * (o * w + 2 * wx)).min(0, keepdim=True)
    return Stored(d, m, integers.gather(0, best).to(torch.int8), depths.gather(0, best).to(torch.int8))


def _shares(field: Tensor, format: Format) -> tuple[Tensor, Tensor, Tensor]:
    """field [groups] >= 0 -> a factor of each block [blocks, 1] f16, that of each group, and the integer of each group [groups] f32."""
    top = (1 << format.scale_bits) - 1
    blocks = field.view(-1, format.groups)
    largest = blocks.amax(1, keepdim=True)
    factor = (largest / top).half()
    return factor, factor.float().expand_as(blocks).reshape(-1), (blocks * search.inverse(largest) * top).round_().view(-1)
