"""Round to the numbers of a codebook by a table: whole numbers and halves decide which of its numbers is nearest."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from edgecc.targets.gguf.blocks.formats import Format

# Twice a scaled value, and this added, is its place in a table.
_MIDDLE = 256


def indices(scaled: Tensor, format: Format) -> Tensor:
    """The codes of the nearest numbers, the upper one of two. scaled f32, overwritten -> the same shape, int8."""
    _, codes = _tables(format.codebook)
    return torch.index_select(codes, 0, _places(scaled)).view(scaled.shape)


def levels(scaled: Tensor, format: Format, out: Tensor) -> Tensor:
    """The nearest numbers themselves, into `out`. scaled f32, overwritten."""
    values, _ = _tables(format.codebook)
    torch.index_select(values, 0, _places(scaled), out=out.view(-1))
    return out


def _places(scaled: Tensor) -> Tensor:
    # What is not a number has no place of its own; its scale is not a number either.
    return scaled.mul_(2).add_(_MIDDLE).clamp_(0, 2 * _MIDDLE - 1).nan_to_num_(0).long().view(-1)


@cache
def _tables(codebook: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """For each place the nearest number f32 and its index int8."""
    values = torch.tensor(codebook, dtype=torch.float32)
    halves = (torch.arange(2 * _MIDDLE) - _MIDDLE) / 2
    index = torch.bucketize(halves, (values[:-1] + values[1:]) / 2, right=True)
    return values[index], index.to(torch.int8)
