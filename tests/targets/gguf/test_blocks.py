"""Block formats against ggml: the bytes where they are its own, the error where we choose the scales."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgecc.targets.gguf.blocks import FORMATS, decode, encode, fit
from tests.targets.gguf.ggml_host import TYPES, Job, dequantize, quantize

GROUPED = [name for name in FORMATS if FORMATS[name].group]
SAME_BYTES = ["f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1"]


def _gaussian(rows: int, cols: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed))


def test_sizes_and_codes_are_those_of_ggml():
    assert {name: (f.code, f.block, f.size) for name, f in FORMATS.items() if name != "f32"} == {
        name: (code, block, size) for name, (code, _, block, size) in TYPES.items()
    }


@pytest.mark.parametrize("name", GROUPED)
def test_ggml_reads_what_decode_reads(name):
    values = _gaussian(3, 512)
    data = encode(values, name)
    assert np.array_equal(dequantize(data.numpy(), name, 512), decode(data, name, 512).numpy())


@pytest.mark.parametrize("name", SAME_BYTES)
def test_bytes_are_ggmls_own(name):
    values = torch.cat([_gaussian(16, 256, seed) * 10.0 ** (seed - 4) for seed in range(7)])
    (theirs,) = quantize([Job(values.numpy(), name)])
    assert np.array_equal(encode(values, name).numpy(), theirs.data)


@pytest.mark.parametrize("name", GROUPED)
def test_columns_in_turn_round_as_the_whole_does(name):
    values = _gaussian(4, 256)
    grid = fit(values, name)
    rounded, codes = grid.nearest(values, 0)
    single = [grid.nearest(values[:, column : column + 1], column) for column in range(256)]
    assert torch.equal(torch.cat([value for value, _ in single], dim=1), rounded)
    assert torch.equal(torch.cat([code for _, code in single], dim=1), codes)
    assert np.array_equal(dequantize(grid.pack(codes).numpy(), name, 256), rounded.numpy())
