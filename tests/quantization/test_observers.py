"""Observers: streams in pieces are as one, and each method gives the range that a closed form or a search of its own gives."""

from __future__ import annotations

import math

import pytest
import torch

from edgecc.errors import UsageError
from edgecc.quantization.affine import affine, dequantize, quantize
from edgecc.quantization.observers import Observer, Rule, extent, method
from tests.quantization.nets import normal

INT8 = (-128, 127)


def seen(*parts: torch.Tensor) -> Observer:
    observer = Observer()
    for part in parts:
        observer.see(part)
    return observer


def test_a_stream_in_pieces_is_as_one():
    """The range doubles twice on the way; merged bins hold the same counts."""
    x = torch.cat([normal(1000), 5 * normal(1000, seed=2), 40 * normal(10, seed=3)])
    whole, pieces = seen(x), seen(*x.split(97))
    assert (whole.low, whole.high, whole.reach) == (pieces.low, pieces.high, pieces.reach)
    assert float(pieces.counts.sum()) == len(x) and float((whole.counts - pieces.counts).abs().sum()) <= 2  # a number on an edge


def test_minimum_and_maximum():
    assert extent(seen(torch.tensor([-1.0, 2.0]), torch.tensor([0.5])), Rule(INT8, False, "min-max")) == (-1.0, 2.0)


def test_a_range_includes_zero():
    assert extent(seen(torch.tensor([2.0, 3.0])), Rule(INT8, False, "min-max")) == (0.0, 3.0)


def test_the_moving_average_weighs_by_nine_tenths():
    found = extent(seen(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 2.0]), torch.tensor([0.0, 4.0])), Rule(INT8, False, "moving-average"))
    assert found == (0.0, pytest.approx(0.9 * (0.9 * 1 + 0.1 * 2) + 0.1 * 4))


def test_a_percentile_leaves_out_both_tails():
    x = torch.linspace(-1, 1, 100001)
    low, high = extent(seen(x), Rule(INT8, False, "percentile", 99.0))
    assert (low, high) == (pytest.approx(-0.98, abs=1e-3), pytest.approx(0.98, abs=1e-3))


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_least_squared_error_is_near_that_of_a_search_over_the_numbers(symmetric):
    x = torch.cat([normal(20000), torch.tensor([30.0])])
    found = extent(seen(x), Rule((-8, 7), symmetric, "mse"))

    def error(ends):
        scale, zero_point = affine(torch.tensor(ends[0]), torch.tensor(ends[1]), (-8, 7), symmetric=symmetric)
        return float((dequantize(quantize(x, scale, zero_point, (-8, 7)), scale, zero_point) - x).square().mean())

    shrunk = [(float(x.min()) * k / 100, float(x.max()) * k / 100) for k in range(30, 101)]
    assert error(found) <= 1.02 * min(map(error, shrunk))  # 2 %: the histogram's bins
    assert error(found) < error((float(x.min()), float(x.max())))


def test_entropy_clips_an_outlier_and_keeps_a_uniform_range():
    clipped = extent(seen(normal(100000), torch.tensor([100.0])), Rule(INT8, False, "entropy"))
    assert 2.5 < clipped[1] < 10
    kept = extent(seen(torch.linspace(-1, 1, 100001)), Rule(INT8, False, "entropy"))
    assert kept[1] > 0.95


def test_zeros_of_a_relu_do_not_decide_the_entropy():
    x = normal(100000).relu()
    assert extent(seen(x), Rule(INT8, False, "entropy"))[1] > 2.5


def test_a_constant_and_a_single_number_have_a_range():
    for x in (torch.full((10,), 3.0), torch.tensor(2.5), torch.zeros(4)):
        for name in ("min-max", "percentile", "entropy", "mse", "moving-average"):
            low, high = extent(seen(x), Rule(INT8, False, name))
            assert low <= 0 <= high and math.isfinite(high) and high <= float(x.max())


def test_an_empty_tensor_is_nothing():
    assert not seen(torch.empty(0, 3)).seen


def test_an_unknown_method_is_refused():
    with pytest.raises(UsageError, match=r"'kl'(.|\n)*entropy"):
        method("kl")
