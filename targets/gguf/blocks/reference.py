"""ggml's own rounding for the formats of one group a block: the same bytes, bit for bit.

It divides by the scale before that is rounded to f16, and has its own ways at ties, so it differs from rounding to the
nearest number of the grid (ggml-quants.c, the functions named quantize_row_*_ref).
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgecc.targets.gguf.blocks.formats import Format
from edgecc.targets.gguf.blocks.packing import Stored
from edgecc.targets.gguf.blocks.search import inverse

# The float before one half: adding one half itself would carry it up to one.
_HALF = torch.tensor(0.49999997)


def round_rows(values: Tensor, format: Format) -> tuple[Stored, Tensor]:
    """Scales and codes of a few rows. values [rows, cols] f32 -> scales, codes [rows, cols] int8."""
    blocks = values.view(-1, format.group)
    if format.name == "q8_0":
        d = blocks.abs().amax(1, keepdim=True) / 127
        scaled = blocks * inverse(d)
        stored, codes = Stored(d.half()), scaled.add_(torch.copysign(_HALF, scaled))
    elif format.minimum:
        low = blocks.amin(1, keepdim=True)
        d = (blocks.amax(1, keepdim=True) - low) / format.high
        stored, codes = Stored(d.half(), low.half()), (blocks - low).mul_(inverse(d)).add_(0.5).clamp_(max=format.high)
    else:
        d = _first_extreme(blocks) / format.low
        stored, codes = Stored(d.half()), (blocks * inverse(d)).add_(0.5 - format.low).clamp_(max=format.high - format.low)
        codes = codes.to(torch.int8).add_(format.low)
    return stored.shaped(len(values)), codes.to(torch.int8).view(values.shape)


def _first_extreme(blocks: Tensor) -> Tensor:
    """The first of the values of largest magnitude of each block, with its sign. blocks [n, values] -> [n, 1]."""
    high, low = blocks.amax(1, keepdim=True), blocks.amin(1, keepdim=True)
    found = torch.where(high > -low, high, low)
    (tied,) = torch.nonzero((high == -low)[:, 0], as_tuple=True)
    if len(tied):
        among = blocks[tied]
        earlier = torch.arange(blocks.shape[1], 0, -1)
        first = ((among.abs() == high[tied]) * earlier).argmax(1, keepdim=True)
        found[tied] = among.gather(1, first)
    return found
