"""Choose the scales of a matrix of weights, as its file will hold them.

Without an importance the error of a weight counts by the rule that ggml has for the format; with one, the mean square
of the input that multiplies its column, that rule is multiplied by it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from edgecc.targets.gguf.blocks import search
from edgecc.targets.gguf.blocks.formats import Format
from edgecc.targets.gguf.blocks.packing import Stored

_AFFINE = tuple(-1 + 0.1 * step for step in range(21))
_SYMMETRIC = tuple(0.1 * step for step in range(-9, 10))
_NONLINEAR = tuple(range(-7, 8))


def fit_rows(values: Tensor, format: Format, importance: Tensor | None) -> Stored:
    """Scales of a few rows. values [rows, cols] f32, importance [cols] f32 or None."""
    rows = len(values)
    x = values.view(-1, format.group).t().contiguous()
    if format.name == "q8_0":
        return Stored(_half(x.abs().amax(0) / 127, rows))
    weight = _weight(x, rows, format, importance)
    if format.minimum:
        scale, minimum = search.affine(x, weight, format.high, _AFFINE)
        if not format.scale_bits:
            return Stored(_half(scale, rows), _half(minimum, rows))
        return _refined(x, weight, *_shared(scale, format), *_shared(-minimum, format), format, rows)
    if format.codebook:
        scale = search.nonlinear(x, weight, torch.tensor(format.codebook, dtype=torch.float32), _NONLINEAR)
    else:
        scale = search.symmetric(x, weight, format.low, _SYMMETRIC)
    if not format.scale_bits:
        return Stored(_half(scale, rows))
    d, scales = _shared_signed(scale, format)
    return Stored(d.view(rows, -1), None, scales.to(torch.int8).view(rows, -1))


def _weight(x: Tensor, rows: int, format: Format, importance: Tensor | None) -> Tensor:
    """How much the error of each weight counts, for groups x [n, groups]."""
    if importance is None:
        return _PLAIN.get(format.name, _spread)(x, rows, format)
    columns = importance.view(-1, format.group).t()[:, None].expand(-1, rows, -1).reshape(x.shape)
    if format.name == "q6_k":
        return columns
    return _spread(x, rows, format).mul_(columns)


def _spread(x: Tensor, rows: int, format: Format) -> Tensor:
    """sqrt(s + x^2) where s is the mean square of the row, or for the formats of 256 values and iq4_nl twice that of the block (q2_k: once)."""
    squares = x * x
    across = format.groups if format.scale_bits or format.codebook else x.shape[1] // rows
    mean = squares.mean(0).view(-1, across).mean(1, keepdim=True)
    factor = 2 if (format.scale_bits and format.name != "q2_k") or format.codebook else 1
    return squares.add_((factor * mean).expand(-1, across).reshape(-1)).sqrt_()


def _square(x: Tensor, rows: int, format: Format) -> Tensor:
    return x * x


def _root_mean_square(x: Tensor, rows: int, format: Format) -> Tensor:
    return x.abs().add_((x * x).mean(0).sqrt_())


def _magnitude(x: Tensor, rows: int, format: Format) -> Tensor:
    return x.abs()


_PLAIN: dict[str, Callable[[Tensor, int, Format], Tensor]] = {
    "q2_k": _magnitude,
    "q3_k": _square,
    "q4_k": _root_mean_square,
    "q5_k": _root_mean_square,
    "q6_k": _magnitude,
    "iq4_nl": _square,
    "iq4_xs": _square,
}


def _shared(field: Tensor, format: Format) -> tuple[Tensor, Tensor]:
    """A factor for each block and integers for its groups. field [groups] >= 0 -> [blocks, 1] f16, [blocks, groups of one] f32."""
    top = (1 << format.scale_bits) - 1
    blocks = field.view(-1, format.groups)
    largest = blocks.amax(1, keepdim=True)
    return (largest / top).half(), (blocks * torch.where(largest > 0, top / largest, 0.0)).round_()


def _shared_signed(field: Tensor, format: Format) -> tuple[Tensor, Tensor]:
    """The same for scales of either sign: the one of largest magnitude becomes the lowest integer."""
    low = -(1 << (format.scale_bits - 1))
    blocks = field.view(-1, format.groups)
    largest = search.extreme(blocks.t())[:, None]
    d = (largest / low).half()
    inverse = torch.where(d == 0, 0.0, d.float().reciprocal())
    return d, (blocks * inverse).round_().clamp_(low, -low - 1)


def _refined(x: Tensor, weight: Tensor, d: Tensor, scales: Tensor, m: Tensor, minima: Tensor, format: Format, rows: int) -> Stored:
    """Move each pair of integers to the neighbour that is best for the codes which the present pair gives."""
    top = (1 << format.scale_bits) - 1
    wide, deep = d.float().expand_as(scales).reshape(-1), m.float().expand_as(minima).reshape(-1)
    scales, minima = scales.reshape(-1), minima.reshape(-1)
    scale = wide * scales
    codes = (x + deep * minima).mul_(torch.where(scale > 0, scale.reciprocal(), 0.0)).round_().clamp_(0, format.high)
    product = weight * codes
    wl, wxl, wll = product.sum(0), (product * x).sum(0), product.mul_(codes).sum(0)
    w, wx = weight.sum(0), (weight * x).sum(0)
    steps = torch.tensor([(a, b) for a in (0, -1, 1) for b in (0, -1, 1)], dtype=torch.float32)
    near, below = (scales + steps[:, :1]).clamp_(0, top), (minima + steps[:, 1:]).clamp_(0, top)
    s, o = near * wide, below * deep
    best = (s * (s * wll - 2 * (o * wl + wxl)) + o * (o * w + 2 * wx)).argmin(0, keepdim=True)
    return Stored(
        d.view(rows, -1),
        m.view(rows, -1),
        near.gather(0, best)[0].to(torch.int8).view(rows, -1),
        below.gather(0, best)[0].to(torch.int8).view(rows, -1),
    )


def _half(field: Tensor, rows: int) -> Tensor:
    return field.half().view(rows, -1)
