"""The scales and offsets of a grid while they are moved, transposed: one row for each group of columns."""

from __future__ import annotations

import torch

from edgecc.targets.gguf.blocks import Grid
from edgecc.targets.gguf.blocks.packing import Stored
from edgecc.targets.gguf.blocks.search import inverse


class Scales:
    """`scale`, `offset` [groups, rows] f32: a weight is scale * level + offset, a level a code or what the codebook has for it."""

    def __init__(self, grid: Grid) -> None:
        format, stored = grid.format, grid.stored
        self.format = format
        self.scale = grid.scale.T.contiguous()
        self.offset = None if grid.offset is None else grid.offset.T.contiguous()
        self._d, self._minimum, self._scales, self._minima = (
            None if field is None else field.float().T.contiguous() for field in (stored.d, stored.minimum, stored.scales, stored.minima)
        )
        top = (1 << format.scale_bits) - 1 if format.minimum else (1 << format.scale_bits >> 1) - 1
        self._limits = (0 if format.minimum else -top - 1, top)
        self._codebook = torch.tensor(format.codebook, dtype=torch.float32)

    def level(self, scaled: torch.Tensor) -> torch.Tensor:
        """The nearest level of each number; overwrites `scaled`."""
        if not self.format.codebook:
            return scaled.round_().clamp_(self.format.low, self.format.high)
        middles = (self._codebook[:-1] + self._codebook[1:]) / 2
        return self._codebook[torch.bucketize(scaled, middles, right=True)]

    def inverse(self, group: int) -> torch.Tensor:
        """One over the scales of a group [rows], zero where they are."""
        return inverse(self.scale[group])

    def values(self, levels: torch.Tensor, start: int) -> torch.Tensor:
        """The weights of columns start.. that have these levels [n, rows]."""
        owner = torch.arange(start, start + len(levels)) // self.format.group
        values = levels * self.scale[owner]
        return values if self.offset is None else values.add_(self.offset[owner])

    def set_scale(self, group: int, wanted: torch.Tensor) -> torch.Tensor:
        """Let the scales of a group be the nearest to `wanted` [rows] that the file can hold; by how much they moved."""
        return self._set(self.scale, self._d, self._scales, group, wanted, 1)

    def set_offset(self, group: int, wanted: torch.Tensor) -> torch.Tensor:
        """The same of offsets."""
        assert self.offset is not None
        return self._set(self.offset, self._minimum, self._minima, group, wanted, -1)

    def _set(
        self, field: torch.Tensor, factor: torch.Tensor | None, integers: torch.Tensor | None, group: int, wanted: torch.Tensor, sign: int
    ) -> torch.Tensor:
        assert factor is not None
        if integers is None:
            found = wanted.half()
            factor[group] = torch.where(found.isfinite(), found.float(), factor[group])
            value = factor[group]
        else:
            d = factor[group // self.format.groups]
            integers[group] = torch.where(d == 0, integers[group], (sign * wanted / d).round_().clamp_(*self._limits))
            value = sign * d * integers[group]
        moved = value - field[group]
        field[group] = value
        return moved

    def grid(self) -> Grid:
        def back(field: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
            return None if field is None else field.T.to(dtype).contiguous()

        d = back(self._d, torch.float16)
        assert d is not None
        integers = back(self._scales, torch.int8), back(self._minima, torch.int8)
        return Grid(self.format, Stored(d, back(self._minimum, torch.float16), *integers))

    def pack(self, levels: torch.Tensor) -> torch.Tensor:
        """The bytes of the rows. levels [columns, rows] -> [rows, row bytes] uint8."""
        codes = torch.searchsorted(self._codebook, levels.T.contiguous()) if self.format.codebook else levels.T
        return self.grid().pack(codes.to(torch.int8).contiguous())
