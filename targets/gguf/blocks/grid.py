"""The numbers that the weights of a matrix may become once its scales are fixed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from edgecc.targets.gguf.blocks.codebook import indices
from edgecc.targets.gguf.blocks.formats import Format
from edgecc.targets.gguf.blocks.packing import Stored, pack
from edgecc.targets.gguf.blocks.search import inverse


@dataclass(frozen=True)
class Grid:
    """Scales and offsets of every group as the file holds them; a weight is scale * code + offset, or scale * codebook[code]."""

    format: Format
    stored: Stored

    @cached_property
    def scale(self) -> Tensor:
        """[rows, groups] f32, negative or zero for some groups."""
        return _product(self.stored.d, self.stored.scales, self.format)

    @cached_property
    def offset(self) -> Tensor | None:
        """[rows, groups] f32, or None where the format has no minimum."""
        if self.stored.minimum is None:
            return None
        found = _product(self.stored.minimum, self.stored.minima, self.format)
        return found if self.stored.minima is None else found.neg_()

    def codes(self, values: Tensor) -> Tensor:
        """The codes of the nearest numbers. values [rows, cols] f32 -> [rows, cols] int8."""
        grouped, one = self._grouped(values), inverse(self.scale)[:, :, None]
        scaled = grouped * one if self.offset is None else (grouped - self.offset[:, :, None]).mul_(one)
        if self.format.codebook:
            return indices(scaled, self.format).view(values.shape)
        return scaled.round_().clamp_(self.format.low, self.format.high).to(torch.int8).view(values.shape)

    def values(self, codes: Tensor) -> Tensor:
        """What a reader of the file gets. codes [rows, cols] int8 -> [rows, cols] f32."""
        grouped = self._grouped(codes)
        steps = torch.tensor(self.format.codebook, dtype=torch.float32)[grouped.int()] if self.format.codebook else grouped.float()
        steps *= self.scale[:, :, None]
        return (steps if self.offset is None else steps.add_(self.offset[:, :, None])).view(codes.shape)

    def pack(self, codes: Tensor) -> Tensor:
        """The bytes of the rows. codes [rows, cols] int8 -> [rows, row bytes] uint8."""
        return pack(self.format, self.stored, codes)

    def _grouped(self, field: Tensor) -> Tensor:
        """[rows, cols] -> [rows, groups, values of a group]."""
        return field.reshape(len(field), -1, self.format.group)


def _product(d: Tensor, integers: Tensor | None, format: Format) -> Tensor:
    if integers is None:
        return d.float()
    rows, blocks = d.shape
    return (d.float()[:, :, None] * integers.view(rows, blocks, format.groups)).view(rows, -1)
