"""Rounding that makes up for its errors: on the grid of its format, better than ggml's by half, and never worse than the nearest."""

from __future__ import annotations

import pytest
import torch

from edgecc.errors import UsageError
from edgecc.quantization.columns import damped
from edgecc.targets.gguf.blocks import FORMATS, decode, encode, fit
from edgecc.targets.gguf.rounding import Moments, round_compensated
from edgecc.targets.gguf.rounding.refinement import refine
from edgecc.targets.gguf.rounding.scales import Scales
from tests.targets.gguf import ggml_host

GROUPED = [name for name, format in FORMATS.items() if format.group]
COLUMNS = 512


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def vectors(count=2000):
    """Inputs of a layer as they are in language models: correlated, some channels far larger than others."""
    mixed = normal(count, COLUMNS, seed=0) + normal(count, 40, seed=1) @ normal(40, COLUMNS, seed=2) / 4
    return mixed * (1 + 4 * normal(COLUMNS, seed=3).square())


def moments_of(x):
    return Moments(len(x), x.double().square().sum(0), x.T @ x)


def loss(x, weight, rounded):
    """Squared error of each row's outputs."""
    return (x @ (weight - rounded).T).square().sum(0)


@pytest.mark.slow
def test_the_output_error_is_at_most_two_thirds_of_ggmls_with_its_importance_matrix_on_unseen_inputs():
    """The inputs are those of one distribution, half of them for calibration. ggml chooses its scales by their mean squares."""
    seen, unseen = vectors(4000).chunk(2)
    weight = normal(64, COLUMNS, seed=4) / 20
    moments = moments_of(seen)
    theirs = ggml_host.quantize([ggml_host.Job(weight.numpy(), name, moments.importance.numpy()) for name in GROUPED])
    ours = {name: round_compensated(weight, moments, name).numpy() for name in GROUPED}
    decoded = dict(zip(GROUPED, ggml_host.dequantize(list(ours.values()), GROUPED, COLUMNS), strict=True))
    ratios = {}
    for name, result in zip(GROUPED, theirs, strict=True):
        assert ours[name].shape == result.data.shape
        read = torch.from_numpy(decoded[name])
        ratios[name] = float(loss(unseen, weight, read).sum() / loss(unseen, weight, torch.from_numpy(result.values)).sum())
    assert max(ratios.values()) <= 2 / 3, ratios


@pytest.mark.parametrize("name", ["q4_0", "q4_1", "q4_k", "q6_k", "iq4_nl", "q2_k"])
def test_no_row_is_worse_than_the_nearest_on_what_was_seen(name):
    x = vectors()
    weight = normal(24, COLUMNS, seed=5) / 20
    moments = moments_of(x)
    assert moments.products is not None
    error = weight - decode(round_compensated(weight, moments, name), name, COLUMNS)
    plain = weight - decode(encode(weight, name, moments.importance), name, COLUMNS)
    better, worse = ((e @ damped(moments.products, 0.01) * e).sum(1) for e in (error, plain))
    assert bool((better <= worse * 1.0001).all())  # float32 sums of 262,144 products


@pytest.mark.parametrize("name", ["q4_1", "q5_1"])
def test_weights_that_are_all_positive_are_compensated_as_well(name):
    """The minimum of a block is above zero there, which formats of super-blocks have not."""
    x = vectors()
    weight = 1 + normal(24, COLUMNS, seed=5) / 20
    moments = moments_of(x)
    found, plain = (loss(x, weight, decode(data, name, COLUMNS)).sum() for data in _both(weight, moments, name))
    assert found <= 0.5 * plain  # a third is usual, for weights around zero too


def _both(weight, moments, name):
    return round_compensated(weight, moments, name), encode(weight, name, moments.importance)


def test_independent_inputs_leave_only_scales_to_move():
    """The products are diagonal: no column can make up for another, so what is gained is little."""
    weight = normal(8, COLUMNS, seed=6)
    moments = Moments(10, torch.ones(COLUMNS).double(), torch.eye(COLUMNS))
    both = round_compensated(weight, moments, "q4_0"), encode(weight, "q4_0", moments.importance)
    rounded, plain = (weight - decode(b, "q4_0", COLUMNS) for b in both)
    assert 0.9 <= rounded.square().sum() / plain.square().sum() <= 1


def test_rows_are_independent_and_columns_follow_their_moments():
    """Rows of a weight may be permuted and cut before rounding; columns where the moments are."""
    x, weight = vectors(), normal(16, COLUMNS, seed=7)
    whole = round_compensated(weight, moments_of(x), "q4_k")
    assert torch.equal(round_compensated(weight.flip(0)[:5], moments_of(x), "q4_k"), whole.flip(0)[:5])
    order = torch.randperm(COLUMNS, generator=torch.Generator().manual_seed(8))
    there = moments_of(x).columns(order)
    expected = moments_of(x[:, order])
    assert there.products is not None and expected.products is not None
    assert torch.allclose(there.products, expected.products, rtol=1e-5)  # float32 sums of 2,000 products
    assert torch.equal(there.squares, expected.squares)


def test_many_rows_are_rounded_in_parts(monkeypatch):
    x, weight = vectors(), normal(40, COLUMNS, seed=9)
    whole = round_compensated(weight, moments_of(x), "q4_0")
    monkeypatch.setattr("edgecc.targets.gguf.rounding.compensation._CHUNK", 7 * COLUMNS)
    assert torch.equal(round_compensated(weight, moments_of(x), "q4_0"), whole)


@pytest.mark.parametrize("name", GROUPED)
def test_every_sweep_lowers_the_error_and_says_it(name):
    x, weight = vectors(), normal(8, COLUMNS, seed=10) / 20
    moments = moments_of(x)
    assert moments.products is not None
    products = damped(moments.products, 0.01)
    grid = fit(weight, name, moments.importance)
    scales = Scales(grid)
    codes = grid.codes(weight)
    levels = (torch.tensor(FORMATS[name].codebook)[codes.int()] if FORMATS[name].codebook else codes).float().T.contiguous()
    assert torch.equal(decode(scales.pack(levels), name, COLUMNS), grid.values(codes))
    last = torch.full((8,), torch.inf)
    for _ in range(3):
        said = refine(weight.T.contiguous(), products, scales, levels, 1)
        error = (weight - decode(scales.pack(levels), name, COLUMNS)).double()
        now = (error @ products.double() * error).sum(1)
        assert torch.allclose(said.double(), now, rtol=1e-2)  # the gradient is updated in float32 512 times
        assert bool((now <= last * 1.001).all())
        last = now


def test_the_target_follows_half_of_the_way_to_least_squares():
    """W z is wanted and x is read: half of the T of least ||W z - T x||^2 + d ||W - T||^2, d a hundredth of the mean square."""
    x = vectors(3000).double()
    z = x + 0.1 * normal(3000, COLUMNS, seed=11).double() + 0.05 * x.flip(1)
    weight = normal(6, COLUMNS, seed=12)
    rest = torch.eye(COLUMNS).double() * (x.square().sum() / COLUMNS / 100).sqrt()
    best = torch.linalg.lstsq(torch.cat([x, rest]), torch.cat([z, rest]) @ weight.double().T).solution.T
    moments = Moments(3000, x.square().sum(0), (x.T @ x).float(), ((z - x).T @ x).float())
    moved, wanted = moments.target(weight).double() - weight, (best - weight.double()) / 2
    assert (moved - wanted).norm() <= 1e-3 * wanted.norm()  # float32, where squares of inputs differ by a factor of thousands


def test_formats_without_scales_are_encoded_as_they_are():
    weight = normal(4, 32, seed=13)
    for name in ("f32", "f16", "bf16"):
        assert torch.equal(round_compensated(weight, moments_of(normal(99, 32, seed=14)), name), encode(weight, name))


def test_squares_alone_choose_the_scales():
    x, weight = vectors(), normal(4, COLUMNS, seed=15)
    alone = Moments(len(x), x.double().square().sum(0))
    assert torch.equal(round_compensated(weight, alone, "q4_k"), encode(weight, "q4_k", alone.importance))


@pytest.mark.parametrize("name", ["q4_0", "q4_k"])
def test_inputs_that_are_always_zero_and_rows_of_zeros_do_no_harm(name):
    x, weight = vectors(), normal(4, COLUMNS, seed=16)
    x[:, 5:300], weight[1] = 0, 0
    rounded = decode(round_compensated(weight, moments_of(x), name), name, COLUMNS)
    assert bool(torch.isfinite(rounded).all())
    assert not bool(rounded[1].any())
    nothing = Moments(0, torch.zeros(COLUMNS).double(), torch.zeros(COLUMNS, COLUMNS))
    error = decode(round_compensated(weight, nothing, name), name, COLUMNS) - weight
    assert float(error.norm() / weight.norm()) < 0.1  # four bits: a step is 1/15 of the range of a group


def test_weights_that_are_not_finite_are_refused():
    weight = normal(4, COLUMNS, seed=17)
    weight[2, 3] = torch.nan
    with pytest.raises(UsageError, match="row 2"):
        round_compensated(weight, moments_of(vectors()), "q4_0")
