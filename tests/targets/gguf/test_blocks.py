"""Block formats: ggml's bytes and its reading of ours, rounding on a grid, chunks, threads, and matrices that are refused."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from edgecc.errors import UsageError
from edgecc.targets.gguf.blocks import FORMATS, Grid, decode, encode, fit
from tests.targets.gguf.ggml_host import TYPES, Job, Quantized, dequantize, quantize

GROUPED = [name for name in FORMATS if FORMATS[name].group]
SAME_BYTES = ["f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1"]
MINIMA = [name for name in GROUPED if FORMATS[name].minimum]


def _gaussian(rows: int, cols: int = 256, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed))


def _nearest(grid: Grid, values: torch.Tensor) -> torch.Tensor:
    return grid.values(grid.codes(values))


def _matrices() -> dict[str, torch.Tensor]:
    """Matrices at which the definitions of rounding differ, all [rows, 256]."""
    generator = torch.Generator().manual_seed(1)
    halves = torch.randint(-254, 255, (8, 256), generator=generator) / 2.0
    halves[:, 0] = 127.0
    return {
        "gaussian of many sizes": torch.cat([_gaussian(4, seed=seed) * 10.0 ** (2 * seed - 30) for seed in range(18)]),
        "zeros": torch.zeros(2, 256),
        "constant": torch.tensor([[0.37], [-0.37]]).expand(2, 256),
        "one among zeros": 3 * torch.eye(256)[[0, 31, 200]],
        "as many above as below": torch.tensor([[1.0, -1.0] * 128, [-1.0, 1.0] * 128]) * torch.tensor([[0.3], [0.7]]),
        "half steps of q8_0": halves,
        "all above zero": torch.rand(2, 256, generator=generator) + 1,
        "all below zero": -torch.rand(2, 256, generator=generator) - 1,
        "one row": _gaussian(1),
    }


@pytest.fixture(scope="module")
def theirs() -> dict[tuple[str, str], Quantized]:
    cases = [(matrix, name) for matrix in _matrices() for name in SAME_BYTES]
    return dict(zip(cases, quantize([Job(_matrices()[matrix].numpy(), name) for matrix, name in cases]), strict=True))


@pytest.fixture(scope="module")
def read_by_ggml() -> dict[str, np.ndarray]:
    written = [encode(_gaussian(3, 512), name).numpy() for name in GROUPED]
    return dict(zip(GROUPED, dequantize(written, GROUPED, 512), strict=True))


def test_sizes_and_codes_are_those_of_ggml():
    ours = {name: (f.code, f.block, f.size) for name, f in FORMATS.items() if name != "f32"}
    assert ours == {name: (code, block, size) for name, (code, _, block, size) in TYPES.items()}
    assert FORMATS["q4_k"].bits == 4.5 and FORMATS["q6_k"].bits == 6.5625


@pytest.mark.parametrize("name", SAME_BYTES)
@pytest.mark.parametrize("matrix", _matrices())
def test_bytes_are_ggmls_own(name, matrix, theirs):
    assert np.array_equal(encode(_matrices()[matrix], name).numpy(), theirs[matrix, name].data)


@pytest.mark.parametrize("name", GROUPED)
def test_decode_reads_what_ggml_reads(name, read_by_ggml):
    data = encode(_gaussian(3, 512), name)
    assert np.array_equal(decode(data, name, 512).numpy(), read_by_ggml[name])


@pytest.mark.parametrize("name", GROUPED)
def test_encoding_what_was_decoded_gives_the_same_numbers_on_its_grid(name):
    values = _gaussian(4)
    grid = fit(values, name)
    codes = grid.codes(values)
    rounded = grid.values(codes)
    same = grid.codes(rounded)
    assert torch.equal(grid.values(same), rounded) and torch.equal(codes, same)


@pytest.mark.parametrize("name", GROUPED)
def test_what_is_packed_is_read_as_the_numbers_of_the_grid(name):
    values = _gaussian(4)
    grid = fit(values, name)
    codes = grid.codes(values)
    assert torch.equal(decode(grid.pack(codes), name, 256), grid.values(codes))


@pytest.mark.parametrize("name", GROUPED)
def test_no_number_of_the_grid_is_nearer(name):
    values = _gaussian(2)
    grid = fit(values, name)
    rounded = _nearest(grid, values)
    levels = torch.stack(
        [grid.values(torch.full((2, 256), code, dtype=torch.int8)) for code in range(grid.format.low, grid.format.high + 1)]
    )
    # 1e-6: where two numbers are equally near, the scaled value may round to either.
    assert ((values - rounded).abs() <= (levels - values).abs().amin(0) + 1e-6).all()


@pytest.mark.parametrize("name", [name for name in GROUPED if FORMATS[name].scale_bits or FORMATS[name].codebook])
def test_encode_is_the_nearest_of_the_fitted_grid(name):
    values, importance = _gaussian(3), torch.rand(256, generator=torch.Generator().manual_seed(2)) + 0.1
    for weight in (None, importance):
        grid = fit(values, name, weight)
        assert torch.equal(encode(values, name, weight), grid.pack(grid.codes(values)))


@pytest.mark.parametrize("name", FORMATS)
def test_rows_encode_alike_alone_and_together_and_in_half_precision(name):
    values = _gaussian(34, 4096).half()  # more than a chunk, which ends after row 31
    alone = [encode(values[row : row + 1].float(), name) for row in (0, 31, 32, 33)]
    assert torch.equal(torch.cat(alone), encode(values, name)[[0, 31, 32, 33]])


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_threads_do_not_change_a_byte(name):
    values, importance = _gaussian(40, 4096), torch.rand(4096, generator=torch.Generator().manual_seed(3)) + 0.1
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append((encode(values, name), encode(values, name, importance)))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["q8_0", "q4_k", "q6_k"])
def test_a_pool_of_threads_writes_the_same_bytes(name):
    strips = _gaussian(128, 4096).split(32)
    with ThreadPoolExecutor(2) as pool:
        assert torch.equal(torch.cat(list(pool.map(lambda strip: encode(strip, name), strips))), encode(torch.cat(strips), name))


@pytest.mark.parametrize("name", GROUPED)
@pytest.mark.parametrize("matrix", _matrices())
def test_every_grid_is_finite(name, matrix):
    values = _matrices()[matrix]
    for importance in (None, torch.arange(256.0)):
        grid = fit(values, name, importance)
        assert torch.isfinite(_nearest(grid, values)).all()
        assert torch.isfinite(decode(encode(values, name, importance), name, 256)).all()


@pytest.mark.parametrize("name", GROUPED)
def test_zeros_stay_zeros(name):
    assert not decode(encode(torch.zeros(2, 256), name), name, 256).any()
    assert not _nearest(fit(torch.zeros(2, 256), name), torch.zeros(2, 256)).any()


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "f32"])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
def test_a_weight_that_is_not_finite_is_refused_with_its_row(name, wrong):
    values = _gaussian(300, 512)
    values[271, 77] = wrong
    with pytest.raises(UsageError, match="row 271"):
        encode(values, name)
    if FORMATS[name].group:
        with pytest.raises(UsageError, match="row 271"):
            fit(values, name, torch.ones(512))


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in ("f32", "bf16")])
@pytest.mark.parametrize("size", [1e10, 3e38])
def test_a_weight_too_large_for_the_scale_is_refused_where_ggml_writes_infinity(name, size):
    values = _gaussian(3) / 6
    values[1, :40] *= size
    with pytest.raises(UsageError, match=f"row 1.*{name}"):
        encode(values, name)


def test_an_importance_below_zero_is_refused_with_its_column():
    importance = torch.ones(256)
    importance[17] = -1
    with pytest.raises(UsageError, match="column 17"):
        encode(_gaussian(2), "q4_k", importance)


@pytest.mark.parametrize("name", MINIMA)
def test_columns_of_no_importance_do_not_matter(name):
    importance = torch.ones(256)
    importance[::2] = 0
    values = _gaussian(8)
    error = (_nearest(fit(values, name, importance), values) - values).square().mean(0)
    assert error[1::2].sum() < error[::2].sum()


def test_an_importance_of_zeros_is_none():
    values = _gaussian(2)
    assert torch.equal(fit(values, "q4_k", torch.zeros(256)).scale, fit(values, "q4_k").scale)
