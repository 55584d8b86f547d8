"""Choose the scales of a matrix of weights, as its file will hold them.

The error of a weight counts as much as its column's importance, the mean square of the input that multiplies it, and
all alike without one: the sum is then the expected error of the product. (ggml counts large weights more.)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edgecc.targets.gguf.blocks import search, superblocks
from edgecc.targets.gguf.blocks.codebook import levels
from edgecc.targets.gguf.blocks.formats import Format
from edgecc.targets.gguf.blocks.packing import Stored


def _even(first: float, last: float, count: int) -> tuple[float, ...]:
    return tuple(first + (last - first) * step / (count - 1) for step in range(count))


# In each try the range of a group is spread over so many steps more than the format has, or its value of largest
# magnitude put so far below the lowest number that a code can mean. Negative ones cut off the outermost values, which
# pays for a few groups of many; the smaller the steps of a format, the further. Found on gaussian weights and MiniLM.
_STRETCHES: dict[str, Sequence[float]] = {
    "q4_0": _even(-1.5, 1.5, 9),
    "q5_0": _even(-2, 1, 9),
    "q4_1": _even(-2, 1, 10),
    "q5_1": _even(-3, 1, 10),
    "q2_k": _even(-1.5, 0.8, 10),
    "q3_k": _even(-0.9, 1.5, 7),
    "q4_k": _even(-2, 1, 8),
    "q5_k": _even(-3, 1, 7),
    "q6_k": _even(-4, 1, 7),
    "iq4_nl": _even(-35, 35, 11),
    "iq4_xs": _even(-35, 35, 11),
}


def fit_rows(values: Tensor, format: Format, importance: Tensor | None) -> Stored:
    """Scales of a few rows. values [rows, cols] f32, importance [cols] f32 > 0 or None. q8_0 is not searched: its steps are fine enough."""
    rows = len(values)
    x = values.view(-1, format.group).t().contiguous()
    if format.name == "q8_0":
        return Stored((x.abs().amax(0) / format.high).half()).shaped(rows)
    weight = None if importance is None else importance.view(-1, format.group).t()[:, None].expand(-1, rows, -1).reshape(x.shape)
    if format.minimum:
        scale, minimum = search.affine(x, weight, format.high, _STRETCHES[format.name], below=format.scale_bits > 0)
        stored = superblocks.above(x, weight, scale, minimum, format) if format.scale_bits else Stored(scale.half(), minimum.half())
    else:
        lowest = format.codebook[0] if format.codebook else format.low
        scale = search.symmetric(x, weight, _nearest(format), [lowest - stretch for stretch in _STRETCHES[format.name]])
        stored = superblocks.signed(scale, format) if format.scale_bits else Stored(scale.half())
    return stored.shaped(rows)


def _nearest(format: Format) -> search.Rounding:
    if format.codebook:
        return lambda scaled, out: levels(scaled, format, out)
    return lambda scaled, out: torch.round(scaled, out=out).clamp_(format.low, format.high)
