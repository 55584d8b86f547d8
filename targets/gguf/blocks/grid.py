"""The numbers that the weights of a matrix may become once its scales are fixed."""

from __future__ import annotations

from collections.abc import Callable
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

    @cached_property
    def inverse(self) -> Tensor:
        """One over the scale, zero where the scale is."""
        return inverse(self.scale)

    def nearest(self, values: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Round columns [start, start + n) to the grid. values [rows, n] f32 -> the same rounded, and codes [rows, n] int8."""
        grouped, groups = self._grouped(values, start)
        codes = self._codes(grouped, groups)
        return self._values(codes, groups).view(values.shape), codes.view(values.shape)

    def codes(self, values: Tensor) -> Tensor:
        """The codes of the nearest numbers, for all columns. values [rows, cols] f32 -> [rows, cols] int8."""
        return self._codes(*self._grouped(values, 0)).view(values.shape)

    def values(self, codes: Tensor) -> Tensor:
        """What a reader of the file gets. codes [rows, cols] int8, all columns -> [rows, cols] f32."""
        return self._values(*self._grouped(codes, 0)).view(codes.shape)

    def pack(self, codes: Tensor) -> Tensor:
        """The bytes of the rows. codes [rows, cols] int8 -> [rows, row bytes] uint8."""
        return pack(self.format, self.stored, codes)

    def _codes(self, values: Tensor, groups: Callable[[Tensor], Tensor]) -> Tensor:
        scaled = values * groups(self.inverse) if self.offset is None else (values - groups(self.offset)).mul_(groups(self.inverse))
        if self.format.codebook:
            return indices(scaled, self.format)
        return scaled.round_().clamp_(self.format.low, self.format.high).to(torch.int8)

    def _values(self, codes: Tensor, groups: Callable[[Tensor], Tensor]) -> Tensor:
        steps = torch.tensor(self.format.codebook, dtype=torch.float32)[codes.int()] if self.format.codebook else codes.float()
        steps *= groups(self.scale)
        return steps if self.offset is None else steps.add_(groups(self.offset))

    def _grouped(self, values: Tensor, start: int) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Values [rows, parts, n], each part in one group, and what makes [rows, parts, 1] of a field of the groups."""
        (rows, columns), group = values.shape, self.format.group
        first, last = start // group, (start + columns - 1) // group
        if first == last:
            return values[:, None], lambda field: field[:, first : first + 1, None]
        if start % group == 0 and columns % group == 0:
            return values.reshape(rows, -1, group), lambda field: field[:, first : last + 1, None]
        owner = torch.arange(start, start + columns) // group
        return values[:, :, None], lambda field: field[:, owner, None]


def _product(d: Tensor, integers: Tensor | None, format: Format) -> Tensor:
    if integers is None:
        return d.float()
    rows, blocks = d.shape
    return (d.float()[:, :, None] * integers.view(rows, blocks, format.groups)).view(rows, -1)
