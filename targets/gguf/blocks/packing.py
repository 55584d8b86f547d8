"""Codes and stored scales to the bytes of a block, and back.

Every field is a row of bit planes: `_join` lays `count` runs of small numbers over one another in a run of bytes, each
`bits` further up. The order of the fields is that of the structs in ggml-common.h.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from edgecc.targets.gguf.blocks.formats import Format


@dataclass(frozen=True)
class Stored:
    """The numbers a file holds beside the codes, for each row.

    d [rows, blocks] f16; `minimum` the same for the offsets, or None. Where a block has several groups: `scales` and
    `minima` [rows, groups] int8, else None.
    """

    d: Tensor
    minimum: Tensor | None = None
    scales: Tensor | None = None
    minima: Tensor | None = None

    def shaped(self, rows: int) -> Stored:
        """The same numbers for so many rows."""

        def some(field: Tensor | None) -> Tensor | None:
            return None if field is None else field.reshape(rows, -1)

        return Stored(self.d.reshape(rows, -1), some(self.minimum), some(self.scales), some(self.minima))


def pack(format: Format, stored: Stored, codes: Tensor) -> Tensor:
    """The bytes of rows. codes [rows, cols] int8 in [low, high] -> [rows, row bytes] uint8."""
    rows, cols = codes.shape
    out = torch.empty((rows * cols // format.block, format.size), dtype=torch.uint8)
    biased = codes if format.low == 0 or format.name == "q8_0" else codes - format.low
    _LAYOUTS[format.name].write(out, stored.shaped(len(out)), biased.contiguous().view(torch.uint8).view(-1, format.block))
    return out.view(rows, -1)


def unpack(format: Format, data: Tensor) -> tuple[Stored, Tensor]:
    """What `pack` wrote. data [rows, row bytes] uint8 -> scales, codes [rows, cols] int8."""
    rows = len(data)
    blocks, codes = _LAYOUTS[format.name].read(data.reshape(-1, format.size))
    codes = codes.reshape(rows, -1).view(torch.int8)
    return blocks.shaped(rows), codes if format.low == 0 or format.name == "q8_0" else codes + format.low


def _join(codes: Tensor, bits: int, count: int, run: int) -> Tensor:
    """codes [blocks, n] uint8 below 2**bits -> [blocks, n / count]: code i * run + j of each count * run goes to byte j."""
    planes = codes.view(len(codes), -1, count, run)
    joined = planes[:, :, 0].clone()
    for plane in range(1, count):
        joined.add_(planes[:, :, plane], alpha=1 << (bits * plane))
    return joined.view(len(codes), -1)


def _split(data: Tensor, bits: int, count: int, run: int) -> Tensor:
    """The codes that `_join` laid over one another."""
    shifts = torch.arange(0, bits * count, bits, dtype=torch.uint8).view(1, 1, count, 1)
    return ((data.reshape(len(data), -1, 1, run) >> shifts) & ((1 << bits) - 1)).view(len(data), -1)


def _put(out: Tensor, start: int, field: Tensor) -> None:
    field = field.contiguous().view(torch.uint8)
    out[:, start : start + field.shape[1]] = field


def _half(data: Tensor, start: int) -> Tensor:
    return data[:, start : start + 2].contiguous().view(torch.float16)


def _some(field: Tensor | None) -> Tensor:
    assert field is not None
    return field


@dataclass(frozen=True)
class _Layout:
    write: Callable[[Tensor, Stored, Tensor], None]
    read: Callable[[Tensor], tuple[Stored, Tensor]]


def _single(bits: int, minimum: bool) -> _Layout:
    """One group a block: d, the minimum, the fifth bits of all codes, then halves of the block side by side."""
    high = 4 if minimum else 2
    low = high + (4 if bits == 5 else 0)

    def write(out: Tensor, stored: Stored, codes: Tensor) -> None:
        _put(out, 0, stored.d)
        if minimum:
            _put(out, 2, _some(stored.minimum))
        if bits == 5:
            _put(out, high, _join(codes >> 4, 1, 8, 1))
        _put(out, low, codes if bits == 8 else _join(codes & 15, 4, 2, 16))

    def read(data: Tensor) -> tuple[Stored, Tensor]:
        codes = data[:, low:].contiguous() if bits == 8 else _split(data[:, low:], 4, 2, 16)
        if bits == 5:
            codes += _split(data[:, high:low], 1, 8, 1) << 4
        return Stored(_half(data, 0), _half(data, 2) if minimum else None), codes

    return _Layout(write, read)


def _write_q2_k(out: Tensor, stored: Stored, codes: Tensor) -> None:
    _put(out, 0, _some(stored.scales) + (_some(stored.minima) << 4))
    _put(out, 16, _join(codes, 2, 4, 32))
    _put(out, 80, stored.d)
    _put(out, 82, _some(stored.minimum))


def _read_q2_k(data: Tensor) -> tuple[Stored, Tensor]:
    scales, minima = (data[:, :16] & 15).view(torch.int8), (data[:, :16] >> 4).view(torch.int8)
    return Stored(_half(data, 80), _half(data, 82), scales, minima), _split(data[:, 16:80], 2, 4, 32)


def _write_q3_k(out: Tensor, stored: Stored, codes: Tensor) -> None:
    scales = (_some(stored.scales) + 32).view(torch.uint8)
    _put(out, 0, _join(codes >> 2, 1, 8, 32))
    _put(out, 32, _join(codes & 3, 2, 4, 32))
    _put(out, 96, _join(scales & 15, 4, 2, 8))
    _put(out, 104, _join(scales >> 4, 2, 4, 4))
    _put(out, 108, stored.d)


def _read_q3_k(data: Tensor) -> tuple[Stored, Tensor]:
    scales = _split(data[:, 96:104], 4, 2, 8) + (_split(data[:, 104:108], 2, 4, 4) << 4)
    codes = _split(data[:, 32:96], 2, 4, 32) + (_split(data[:, :32], 1, 8, 32) << 2)
    return Stored(_half(data, 108), None, scales.view(torch.int8) - 32), codes


def _write_scales(out: Tensor, stored: Stored) -> None:
    """d, minimum and the twelve bytes of eight 6-bit scales and minima: the later four's upper bits sit above the earlier four."""
    scales, minima = _some(stored.scales).view(torch.uint8), _some(stored.minima).view(torch.uint8)
    _put(out, 0, stored.d)
    _put(out, 2, _some(stored.minimum))
    _put(out, 4, scales[:, :4] + ((scales[:, 4:] >> 4) << 6))
    _put(out, 8, minima[:, :4] + ((minima[:, 4:] >> 4) << 6))
    _put(out, 12, (scales[:, 4:] & 15) + (minima[:, 4:] << 4))


def _read_scales(data: Tensor) -> Stored:
    def whole(first: Tensor, rest: Tensor) -> Tensor:
        return torch.cat([first & 63, rest + ((first >> 6) << 4)], dim=1).view(torch.int8)

    scales, minima = whole(data[:, 4:8], data[:, 12:16] & 15), whole(data[:, 8:12], data[:, 12:16] >> 4)
    return Stored(_half(data, 0), _half(data, 2), scales, minima)


def _write_q4_k(out: Tensor, stored: Stored, codes: Tensor) -> None:
    _write_scales(out, stored)
    _put(out, 16, _join(codes, 4, 2, 32))


def _read_q4_k(data: Tensor) -> tuple[Stored, Tensor]:
    return _read_scales(data), _split(data[:, 16:], 4, 2, 32)


def _write_q5_k(out: Tensor, stored: Stored, codes: Tensor) -> None:
    _write_scales(out, stored)
    _put(out, 16, _join(codes >> 4, 1, 8, 32))
    _put(out, 48, _join(codes & 15, 4, 2, 32))


def _read_q5_k(data: Tensor) -> tuple[Stored, Tensor]:
    return _read_scales(data), _split(data[:, 48:], 4, 2, 32) + (_split(data[:, 16:48], 1, 8, 32) << 4)


def _write_q6_k(out: Tensor, stored: Stored, codes: Tensor) -> None:
    _put(out, 0, _join(codes & 15, 4, 2, 64))
    _put(out, 128, _join(codes >> 4, 2, 4, 32))
    _put(out, 192, _some(stored.scales))
    _put(out, 208, stored.d)


def _read_q6_k(data: Tensor) -> tuple[Stored, Tensor]:
    codes = _split(data[:, :128], 4, 2, 64) + (_split(data[:, 128:192], 2, 4, 32) << 4)
    return Stored(_half(data, 208), None, data[:, 192:208].contiguous().view(torch.int8)), codes


def _write_iq4_xs(out: Tensor, stored: Stored, codes: Tensor) -> None:
    scales = (_some(stored.scales) + 32).view(torch.uint8)
    _put(out, 0, stored.d)
    _put(out, 2, _join(scales >> 4, 2, 4, 1))
    _put(out, 4, _join(scales & 15, 4, 2, 1))
    _put(out, 8, _join(codes, 4, 2, 16))


def _read_iq4_xs(data: Tensor) -> tuple[Stored, Tensor]:
    scales = _split(data[:, 4:8], 4, 2, 1) + (_split(data[:, 2:4], 2, 4, 1) << 4)
    return Stored(_half(data, 0), None, scales.view(torch.int8) - 32), _split(data[:, 8:], 4, 2, 16)


_LAYOUTS = {
    "q8_0": _single(8, False),
    "q4_0": _single(4, False),
    "q4_1": _single(4, True),
    "q5_0": _single(5, False),
    "q5_1": _single(5, True),
    "iq4_nl": _single(4, False),
    "q2_k": _Layout(_write_q2_k, _read_q2_k),
    "q3_k": _Layout(_write_q3_k, _read_q3_k),
    "q4_k": _Layout(_write_q4_k, _read_q4_k),
    "q5_k": _Layout(_write_q5_k, _read_q5_k),
    "q6_k": _Layout(_write_q6_k, _read_q6_k),
    "iq4_xs": _Layout(_write_iq4_xs, _read_iq4_xs),
}
