"""The fields of llama.cpp's parameters are found in more than one build, and in no other structure."""

from __future__ import annotations

import struct

import pytest

from edgecc.targets.gguf.runtime.layout import SIZE, ContextFields, find_context_fields, on_the_cpu, with_fields


def defaults(*, output_limits: int = 2, yarn: tuple[float, ...] = (-1, -1, -1, -1), pointers: int = 4) -> bytes:
    """llama_context_default_params as llama.h declares them: `output_limits` of the sizes came one by one."""
    sizes = struct.pack("<4I", 512, 2048, 512, 1) + struct.pack("<I", 0) + struct.pack("<2I", 0, 1)[: 4 * output_limits]
    threads = struct.pack("<2i", 4, 4) + struct.pack("<i", 0)  # and the type of the context
    enums = struct.pack("<4i", -1, -1, -1, -1) + struct.pack("<6f", 0, 0, *yarn) + struct.pack("<If", 0, -1)
    words = sizes + threads + enums
    callbacks = bytes(-len(words) % 8 + 16)
    rest = struct.pack("<2i", 1, 1) + bytes(8 * (pointers - 2)) + bytes((0, 1, 1, 1, 1, 0, 0, 0)) + bytes(24)
    return (words + callbacks + rest).ljust(SIZE, b"\xa5")


@pytest.mark.parametrize(
    ("block", "enums", "types"),
    [
        (defaults(), 40, 104),
        (defaults(output_limits=1), 36, 104),
        (defaults(output_limits=0), 32, 96),
        (defaults(yarn=(-1, 1, 32, 1)), 40, 104),
        (defaults(pointers=5), 40, 104),
    ],
)
def test_fields_are_found_wherever_they_lie(block, enums, types):
    assert find_context_fields(block) == ContextFields(pooling=enums + 4, flash_attention=enums + 12, keys=types, values=types + 4)


@pytest.mark.parametrize(
    ("offset", "value"),
    [(0, 1024), (4, 512), (12, 0), (44, 0), (52, 1), (104, 30), (108, 0)],
)
def test_other_defaults_are_refused(offset, value):
    assert find_context_fields(with_fields(defaults(), {offset: value})) is None


def test_a_second_place_for_the_types_is_refused():
    assert find_context_fields(with_fields(defaults(), {112: 1, 116: 1})) is None


def test_layers_stay_off_the_gpu():
    block = struct.pack("<qqi", 0, 0, -1).ljust(SIZE, b"\0")
    assert struct.unpack_from("<qqi", on_the_cpu(block)) == (0, 0, 0)
    assert on_the_cpu(struct.pack("<qqi", 0, 0, 1).ljust(SIZE, b"\0")) is None
    assert on_the_cpu(struct.pack("<iqq", 99, 0, 0).ljust(SIZE, b"\0")) is None
