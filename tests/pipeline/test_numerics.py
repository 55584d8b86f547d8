"""Distances against closed forms, and what each promise allows."""

from __future__ import annotations

import math

import pytest
import torch

from edgecc.pipeline.base import EXACT, REORDERED, Lossy
from edgecc.pipeline.numerics import FAR, compare, distance


def test_equal_outputs_are_at_distance_zero_with_nan_equal_to_nan():
    x = torch.tensor([1.0, math.nan, math.inf])
    assert distance([x], [x.clone()]).equal and distance([x], [x.clone()]).sqnr_db == math.inf


def test_figures_of_a_known_difference():
    found = distance([torch.tensor([3.0, 4.0])], [torch.tensor([3.0, 4.5])])
    assert found.max_abs == 0.5 and found.relative == 0.125
    assert found.sqnr_db == pytest.approx(20.0)  # signal norm 5, noise norm 0.5
    assert found.cosine == pytest.approx(27 / (5 * math.sqrt(29.25)))


@pytest.mark.parametrize(
    "got",
    [torch.ones(3), torch.ones(2, dtype=torch.float64), torch.tensor([math.nan, 1.0]), torch.tensor([math.inf, 1.0])],
)
def test_another_shape_dtype_or_a_lone_nan_is_infinitely_far(got):
    assert distance([torch.ones(2)], [got]) == FAR


def test_the_worst_output_and_case_count():
    near, far = torch.tensor([1.001]), torch.tensor([2.0])
    one = torch.ones(1)
    assert compare([(one, one), (one, one)], [(one, near), (far, one)]).max_abs == 1.0


def test_infinities_become_null_in_json():
    assert distance([torch.ones(2)], [torch.ones(2)]).as_dict()["sqnr_db"] is None


def test_promises():
    one = torch.ones(4)
    tiny, large = distance([one], [one + 1e-6]), distance([one], [one + 1e-3])
    assert "bit-equal" in tiny.broken(EXACT)
    assert tiny.broken(REORDERED) == "" and "want at most 0.0001" in large.broken(REORDERED)
    assert large.broken(Lossy(50)) == "" and "want at least 70 dB" in large.broken(Lossy(70))
    assert FAR.broken(REORDERED) and FAR.broken(Lossy(-1e9))


def test_a_zero_output_that_should_be_zero_has_no_relative_slack():
    assert distance([torch.zeros(2)], [torch.full((2,), 1e-9)]).broken(REORDERED)
