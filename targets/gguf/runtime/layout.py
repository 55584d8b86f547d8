"""Layout: where the fields of `llama_context_params` lie in the build of llama.cpp that is installed.

Fields are added between releases and no function tells their places, but their default values do: four sizes at the
start; four enumerations of -1 (rope scaling, pooling, attention, flash attention) before two zeros (the rope frequencies);
and further on the two types of the cache, both F16. What does not look like this is refused.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

SIZE = 512  # bytes: more than the structure of any build has
_SIZES = (512, 2048, 512, 1)  # n_ctx, n_batch, n_ubatch, n_seq_max
_UNSPECIFIED = (-1, -1, -1, -1, 0, 0)
_F16 = (1, 1)
_ALL_LAYERS = (-1, 999)
_LAYERS = 16  # n_gpu_layers stands after two pointers


@dataclass(frozen=True)
class ContextFields:
    """Byte offsets of the fields that are set here, each 32 bits wide."""

    pooling: int
    flash_attention: int
    keys: int
    values: int
    context: int = 0
    batch: int = 4
    micro_batch: int = 8


def find_context_fields(defaults: bytes) -> ContextFields | None:
    """The places in the bytes that `llama_context_default_params` gave, None where they are not as expected."""
    words = struct.unpack_from("<64i", defaults)
    enums = _places(words, _UNSPECIFIED, range(4, 24))
    if words[:4] != _SIZES or len(enums) != 1:
        return None
    after = enums[0] + len(_UNSPECIFIED)
    types = _places(words, _F16, range(after, after + 20))
    if len(types) != 1:
        return None
    return ContextFields(4 * enums[0] + 4, 4 * enums[0] + 12, 4 * types[0], 4 * types[0] + 4)


def on_the_cpu(defaults: bytes) -> bytes | None:
    """What `llama_model_default_params` gave, with no layer on a GPU; None where it is not as expected."""
    devices, overrides, layers = struct.unpack_from("<qqi", defaults)
    return with_fields(defaults, {_LAYERS: 0}) if devices == overrides == 0 and layers in _ALL_LAYERS else None


def with_fields(block: bytes, values: Mapping[int, int]) -> bytes:
    """The structure with other values, by offset."""
    changed = bytearray(block)
    for offset, value in values.items():
        struct.pack_into("<i", changed, offset, value)
    return bytes(changed)


def _places(words: tuple[int, ...], wanted: tuple[int, ...], starts: range) -> list[int]:
    return [i for i in starts if words[i : i + len(wanted)] == wanted]
