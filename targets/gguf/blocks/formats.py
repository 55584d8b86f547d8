"""The block formats of GGUF: how many values and bytes a block has, and which numbers a weight in it may become."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Format:
    """One storage type of ggml.

    `code` is its number in a GGUF file; a block of `block` values takes `size` bytes. `group` values share a scale, and
    a weight is scale * code with code in [`low`, `high`], plus an offset where `minimum`, or scale * `codebook`[code].
    The scale is one f16 for each group, or where `scale_bits` is not zero an f16 for each block times an integer of so
    many bits for each group, signed unless there is a minimum. `group` 0: plain numbers without scales.
    """

    name: str
    code: int
    block: int
    size: int
    group: int = 0
    low: int = 0
    high: int = 0
    scale_bits: int = 0
    minimum: bool = False
    codebook: tuple[int, ...] = ()

    @property
    def bits(self) -> float:
        """Bits a weight, scales included."""
        return 8 * self.size / self.block

    @property
    def groups(self) -> int:
        """Groups of a block."""
        return self.block // self.group if self.group else 0

    def row_bytes(self, cols: int) -> int:
        """Bytes of a row of `cols` values, a multiple of `block`."""
        assert cols % self.block == 0, (self.name, cols)
        return cols // self.block * self.size


# ggml-common.h, kvalues_iq4nl.
_NONLINEAR = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)

# Sizes and codes: the enum ggml_type and the structs of ggml-common.h.
FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        format.name: format
        for format in (
            Format("f32", 0, 1, 4),
            Format("f16", 1, 1, 2),
            Format("bf16", 30, 1, 2),
            Format("q8_0", 8, 32, 34, 32, -127, 127),
            Format("q4_0", 2, 32, 18, 32, -8, 7),
            Format("q4_1", 3, 32, 20, 32, 0, 15, minimum=True),
            Format("q5_0", 6, 32, 22, 32, -16, 15),
            Format("q5_1", 7, 32, 24, 32, 0, 31, minimum=True),
            Format("q2_k", 10, 256, 84, 16, 0, 3, 4, minimum=True),
            Format("q3_k", 11, 256, 110, 16, -4, 3, 6),
            Format("q4_k", 12, 256, 144, 32, 0, 15, 6, minimum=True),
            Format("q5_k", 13, 256, 176, 32, 0, 31, 6, minimum=True),
            Format("q6_k", 14, 256, 210, 16, -32, 31, 8),
            Format("iq4_nl", 20, 32, 18, 32, 0, 15, codebook=_NONLINEAR),
            Format("iq4_xs", 23, 256, 136, 32, 0, 15, 6, codebook=_NONLINEAR),
        )
    }
)
