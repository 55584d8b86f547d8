"""Losses against their formulas, and targets that fit no output."""

from __future__ import annotations

import math

import pytest
import torch

from edgecc.errors import UsageError
from edgecc.training.losses import distilled, supervised

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 3.0]])


def test_classes_have_cross_entropy():
    want = -sum(float(row[k]) - math.log(sum(math.exp(v) for v in row.tolist())) for row, k in zip(LOGITS, (0, 1), strict=True)) / 2
    assert float(supervised([LOGITS], torch.tensor([0, 1]))) == pytest.approx(want, rel=1e-6)  # a few float32 operations


def test_numbers_have_the_mean_squared_error():
    assert float(supervised([LOGITS], LOGITS + 2.0)) == 4.0


def test_classes_may_be_small_integers():
    labels = torch.tensor([0, 1])
    assert torch.equal(supervised([LOGITS], labels.to(torch.uint8)), supervised([LOGITS], labels))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (torch.zeros(2), r"the target is f32\[2\].*numbers want the shape of the output"),
        (torch.zeros(2, 3, dtype=torch.int64), "classes want the shape of the output without axis 1"),
        (torch.tensor([0, 3]), "classes are 0 to 3, want 0 to 2"),
        (torch.tensor([-1, 2]), "classes are -1 to 2"),
        (torch.tensor([True, False]), "want integers for classes"),
    ],
)
def test_a_target_that_fits_no_output_is_named(target, message):
    with pytest.raises(UsageError, match=message):
        supervised([LOGITS], target)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_divergence_is_that_of_the_softened_distributions(temperature):
    teacher = torch.tensor([[1.0, 1.0, 0.0], [0.0, 2.0, 1.0]])
    want = 0.0
    for ours, theirs in zip(LOGITS.double().tolist(), teacher.double().tolist(), strict=True):
        p, q = ([math.exp(v / temperature) for v in row] for row in (theirs, ours))
        p, q = [v / sum(p) for v in p], [v / sum(q) for v in q]
        want += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) * temperature**2 / 2
    assert float(distilled("kl", [LOGITS], [teacher], temperature)) == pytest.approx(want, rel=1e-5)  # T^2 times float32's rounding


def test_a_teacher_of_equal_outputs_has_nothing_to_teach():
    assert float(distilled("kl", [LOGITS], [LOGITS], 4.0)) == pytest.approx(0.0, abs=1e-6)  # float32 exp and log
    assert float(distilled("mse", [LOGITS, LOGITS], [LOGITS, LOGITS + 1], 4.0)) == 1.0
