"""What each tensor of a GGUF file takes, known before any weight is read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgecc.targets.gguf.blocks import FORMATS
from edgecc.targets.gguf.mixture import Choice


@dataclass(frozen=True)
class Size:
    """One row of the table of `--dry-run`: shape in torch order, bits of a weight, the reason of the choice of format."""

    name: str
    shape: tuple[int, ...]
    format: str
    bytes: int
    bits: float
    reason: str = ""


def tensor_bytes(shape: tuple[int, ...], format: str) -> int:
    """Bytes of a tensor, without the padding between tensors. The columns are a multiple of the format's block."""
    block, size = FORMATS[format].block, FORMATS[format].size
    return math.prod(shape) // block * size


def sizes(tensors: Mapping[str, tuple[int, ...]], choices: Mapping[str, Choice]) -> list[Size]:
    """A row for each tensor, in their order."""
    return [
        Size(
            name,
            shape,
            choices[name].format,
            tensor_bytes(shape, choices[name].format),
            FORMATS[choices[name].format].bits,
            choices[name].reason,
        )
        for name, shape in tensors.items()
    ]


def total(rows: Sequence[Size]) -> Size:
    """The row below them: `shape` is the number of weights, `bits` the honest bits of a weight over all tensors."""
    weights, taken = sum(math.prod(row.shape) for row in rows), sum(row.bytes for row in rows)
    return Size("total", (weights,), "", taken, 8 * taken / weights if weights else 0.0)
