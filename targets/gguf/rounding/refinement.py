"""Coordinate descent on ||W x - Q x||^2: every scale and every code in turn moves to where the error is least, all others held.

With H the damped sum of x x^T and E = W - Q, the gradient is H E^T; a code at column j is best at its value plus (H E^T)_j / H_jj,
rounded. A scale, and the offset beside it, solve the least squares of their group, and are rounded to what the file can hold. The
codes do what Behdin et al. 2023 (QuantEase) do; every move lowers the error, so a sweep never loses what rounding with
compensation has won.
"""

from __future__ import annotations

import torch

from edgecc.targets.gguf.rounding.scales import Scales

_BLOCK = 128  # columns; a multiple of the group of every format


def refine(columns: torch.Tensor, moments: torch.Tensor, scales: Scales, levels: torch.Tensor, sweeps: int) -> torch.Tensor:
    """Move `scales` and `levels` [in, rows] in place. columns [in, rows] f32: the weight transposed; moments [in, in], damped.

    Returns sum over the data of the squared error of each row [rows].
    """
    error = columns - scales.values(levels, 0)
    gradient = moments @ error
    for _ in range(sweeps):
        for start in range(0, len(levels), _BLOCK):
            block = slice(start, min(start + _BLOCK, len(levels)))
            before = scales.values(levels[block], start)
            local = gradient[block].clone()
            for first in range(block.start, block.stop, scales.format.group):
                _refine_group(first, block, moments, scales, levels, local)
            gradient.addmm_(moments[:, block], scales.values(levels[block], start) - before, alpha=-1)
    return ((columns - scales.values(levels, 0)) * gradient).sum(0)


def _refine_group(first: int, block: slice, moments: torch.Tensor, scales: Scales, levels: torch.Tensor, gradient: torch.Tensor) -> None:
    """The group of columns from `first`; `gradient` is that of the block, kept up to date."""
    group = first // scales.format.group
    own, local = slice(first, first + scales.format.group), slice(first - block.start, first - block.start + scales.format.group)
    if scales.format.name != "q8_0":
        moved = _refit(group, moments[own, own], scales, levels[own], gradient[local])
        gradient.addmm_(moments[block, own], moved, alpha=-1)
    scale, inverse = scales.scale[group], scales.inverse(group)
    diagonal = moments.diagonal()[own].tolist()
    for j, column in enumerate(range(own.start, own.stop)):
        level = scales.level((gradient[local.start + j] * inverse).div_(diagonal[j]).add_(levels[column]))
        moved = (level - levels[column]).mul_(scale)
        levels[column] = level
        gradient.addr_(moments[block, column], moved, alpha=-1)


def _refit(group: int, moments: torch.Tensor, scales: Scales, levels: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Move the scale and offset of each row; by how much that moves the weights [group, rows]."""
    seen = moments @ levels
    ll, lg = (levels * seen).sum(0), (levels * gradient).sum(0)
    if scales.offset is None:
        return levels * scales.set_scale(group, scales.scale[group] + torch.where(ll > 0, lg / ll, 0.0))
    l1, g1, one = seen.sum(0), gradient.sum(0), moments.sum()
    determinant = ll * one - l1 * l1
    step = torch.where(determinant > 1e-6 * ll * one, (lg * one - g1 * l1) / determinant, 0.0)
    scale, offset = scales.scale[group].clone(), scales.offset[group].clone()
    a = scales.set_scale(group, scale + step)
    b = scales.set_offset(group, offset + (g1 - a * l1) / one)
    worse = a * (a * ll + 2 * (b * l1 - lg)) + b * (b * one - 2 * g1) > 0  # rounded to what the file can hold
    scales.set_scale(group, torch.where(worse, scale, scales.scale[group]))
    scales.set_offset(group, torch.where(worse, offset, scales.offset[group]))
    return levels * (scales.scale[group] - scale) + (scales.offset[group] - offset)
