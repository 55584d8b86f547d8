"""Encode matrices of weights into a block format, decode them, and fit the grid that a rounding of its own needs.

Rows go in chunks that stay in the processor's cache, so the work needs little memory beside its result.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from edgecc.errors import UsageError
from edgecc.targets.gguf.blocks.fitting import fit_rows
from edgecc.targets.gguf.blocks.formats import FORMATS, Format
from edgecc.targets.gguf.blocks.grid import Grid
from edgecc.targets.gguf.blocks.packing import Stored, pack, unpack
from edgecc.targets.gguf.blocks.reference import round_rows

# Values a chunk: 512 KiB of f32, so that a few arrays of it stay in the second-level cache or near it.
_CHUNK = 1 << 17
_PLAIN = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def encode(values: Tensor, format: str, importance: Tensor | None = None) -> Tensor:
    """The bytes that a GGUF file holds. values [rows, cols] of any float type, importance [cols] f32 > 0 -> [rows, row bytes] uint8.

    Without an importance the formats of one group a block are ggml's bytes; with one, and for the others, every weight
    becomes the nearest number on the grid of `fit`. q8_0 and plain numbers take no importance. `cols` is a multiple of
    the format's block. Raises UsageError where a row has a number that is not finite, or too large for the format's scale.
    """
    kind, importance = FORMATS[format], _balanced(importance)
    out = torch.empty((len(values), kind.row_bytes(values.shape[1])), dtype=torch.uint8)
    for rows, chunk in _chunks(values):
        if not kind.group:
            plain = chunk.to(_PLAIN[format])
            _refuse(plain, kind, rows)
            out[rows] = plain.view(torch.uint8)
        elif not kind.scale_bits and not kind.codebook and (importance is None or format == "q8_0"):
            stored, codes = round_rows(chunk, kind)
            _check(stored, kind, rows)
            out[rows] = pack(kind, stored, codes)
        else:
            grid = Grid(kind, fit_rows(chunk, kind, importance))
            _check(grid.stored, kind, rows)
            out[rows] = grid.pack(grid.codes(chunk))
    return out


def decode(data: Tensor, format: str, cols: int) -> Tensor:
    """What llama.cpp reads in the bytes. data [rows, row bytes] uint8 -> [rows, cols] f32."""
    kind = FORMATS[format]
    assert data.shape[1] == kind.row_bytes(cols), (data.shape, format, cols)
    out = torch.empty((len(data), cols))
    step = max(1, _CHUNK // cols)
    for start in range(0, len(data), step):
        rows = slice(start, start + step)
        if kind.group:
            stored, codes = unpack(kind, data[rows])
            out[rows] = Grid(kind, stored).values(codes)
        else:
            out[rows] = data[rows].contiguous().view(_PLAIN[format])
    return out


def fit(values: Tensor, format: str, importance: Tensor | None = None) -> Grid:
    """Scales, as the file will hold them, of least weighted error. values [rows, cols] of any float type, importance [cols] f32 > 0.

    Raises UsageError where a row has a number that is not finite, or too large for the format's scale.
    """
    kind, importance = FORMATS[format], _balanced(importance)
    assert kind.group and values.shape[1] % kind.block == 0, (format, values.shape)
    parts = []
    for rows, chunk in _chunks(values):
        parts.append(fit_rows(chunk, kind, importance))
        _check(parts[-1], kind, rows)

    def joined(fields: list[Tensor | None]) -> Tensor | None:
        some = [field for field in fields if field is not None]
        return torch.cat(some) if some else None

    d = torch.cat([part.d for part in parts])
    rest = ([part.minimum for part in parts], [part.scales for part in parts], [part.minima for part in parts])
    return Grid(kind, Stored(d, *map(joined, rest)))


def _balanced(importance: Tensor | None) -> Tensor | None:
    """Importance with mean 1, none below 1e-6: a column whose input was always zero still has to have a scale."""
    if importance is None:
        return None
    wrong = ~(torch.isfinite(importance) & (importance >= 0))
    if bool(wrong.any()):
        column = int(wrong.nonzero()[0])
        raise UsageError(f"column {column}: an importance of {float(importance[column])}, wanted a mean square: finite and not negative")
    mean = importance.double().mean()
    return (importance / mean).float().clamp_(min=1e-6) if mean > 0 else None


def _chunks(values: Tensor) -> Iterator[tuple[slice, Tensor]]:
    rows, cols = values.shape
    step = max(1, _CHUNK // max(1, cols))
    for start in range(0, rows, step):
        chunk = slice(start, min(start + step, rows))
        yield chunk, values[chunk].float().contiguous()


def _check(stored: Stored, format: Format, rows: slice) -> None:
    for field in (stored.d, stored.minimum):
        if field is not None:
            _refuse(field, format, rows)


def _refuse(field: Tensor, format: Format, rows: slice) -> None:
    finite = torch.isfinite(field)
    if not bool(finite.all()):
        row = rows.start + int((~finite).any(1).nonzero()[0])
        raise UsageError(
            f"row {row}: a weight is not finite, or too large for {format.name}",
            hint="look for infinities and NaN in the checkpoint; bf16 and f32 hold every finite weight",
        )
