"""Round a weight onto the grid of a block format so that the output of its layer moves least, in the same bytes as plain rounding."""

from __future__ import annotations

import torch

from edgecc.quantization.columns import damped, inverse_factor, round_columns
from edgecc.targets.gguf.blocks import FORMATS, decode, encode, fit
from edgecc.targets.gguf.rounding.moments import Moments
from edgecc.targets.gguf.rounding.refinement import refine
from edgecc.targets.gguf.rounding.scales import Scales

_DAMPING = 0.01
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
    products = damped(moments.products, _DAMPING)
    order = products.diagonal().argsort(descending=True, stable=True)
    factor = _factor(products[order][:, order])
    step = max(1, _CHUNK // weight.shape[1])
    return torch.cat([_round(part.float(), moments, format, products, factor, order) for part in torch.split(weight, step)])


def _factor(products: torch.Tensor) -> torch.Tensor:
    """In double precision: in single it may fail where inputs are nearly dependent."""
    return inverse_factor(products.double()).float()


def _round(
    weight: torch.Tensor, moments: Moments, format: str, products: torch.Tensor, factor: torch.Tensor, order: torch.Tensor
) -> torch.Tensor:
    columns = moments.target(weight).T.contiguous()
    scales = Scales(fit(weight, format, moments.importance))
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
    error = refine(columns, products, scales, levels, _SWEEPS)
    packed, plain = scales.pack(levels), encode(weight, format, moments.importance)
    missed = columns - decode(plain, format, weight.shape[1]).T
    better = ((products @ missed) * missed).sum(0) < error
    return torch.where(better[:, None], plain, packed)
