"""Round a weight onto the grid of a block format so that the output of its layer moves least, in the same bytes as plain rounding."""

from __future__ import annotations

import torch

from edgecc.quantization.columns import round_columns
from edgecc.targets.gguf.blocks import FORMATS, encode, fit
from edgecc.targets.gguf.rounding.moments import Moments
from edgecc.targets.gguf.rounding.refinement import refine
from edgecc.targets.gguf.rounding.scales import Scales

_SWEEPS = 2
_CHUNK = 1 << 22  # weights that are rounded together


def round_compensated(weight: torch.Tensor, moments: Moments, format: str) -> torch.Tensor:
    """The bytes that a GGUF file holds. weight [out, in] of any float type -> [out, row bytes] uint8.

    The scales are fitted to the weight, columns are rounded on them with compensation, those with the largest inputs first, and then
    scales and codes are refined. A row that plain rounding with the importance has nearer to its output keeps that. A format without
    scales, and moments without products, are encoded as they are. Raises UsageError for weights that are not finite.
    """
    if not FORMATS[format].group or moments.products is None:
        return encode(weight, format, moments.importance)
    step = max(1, _CHUNK // weight.shape[1])
    return torch.cat([_round(part.float(), moments, format) for part in torch.split(weight, step)])


def _round(weight: torch.Tensor, moments: Moments, format: str) -> torch.Tensor:
    factor, order = moments.factor, moments.order  # the largest of the matrices while they are made, so before the target
    columns = moments.target(weight).T.contiguous()
    grid = fit(weight, format, moments.importance)
    scales = Scales(grid)
    groups = (order // scales.format.group).tolist()
    levels = torch.empty_like(columns)
    places = order.tolist()

    def nearest(j: int, column: torch.Tensor) -> torch.Tensor:
        group = groups[j]
        scaled = column if scales.offset is None else column - scales.offset[group]
        level = scales.level(scaled * scales.inverse(group))
        levels[places[j]] = level
        value = level * scales.scale[group]
        return value if scales.offset is None else value.add_(scales.offset[group])

    round_columns(columns[order], factor, nearest)
    error = refine(columns, moments.damped, scales, levels, _SWEEPS)
    plain = grid.codes(weight)
    missed = columns - grid.values(plain).T
    better = ((moments.damped @ missed) * missed).sum(0) < error
    return torch.where(better[:, None], grid.pack(plain), scales.pack(levels))
