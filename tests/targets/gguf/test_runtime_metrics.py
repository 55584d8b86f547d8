"""Distances of logits and embeddings, by closed form and by PyTorch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from edgecc.targets.gguf.runtime.metrics import LogitDistance, compare_embeddings, compare_logits, first_difference


def test_divergence_of_two_coins():
    fair, bent = np.zeros((1, 2), np.float32), np.log(np.array([[0.25, 0.75]]))
    assert compare_logits(bent, fair, [0]).kl == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5), abs=1e-15)
    assert compare_logits(fair, bent, [0]).kl == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3), abs=1e-15)
    assert compare_logits(bent, bent + 7, [0]).kl == pytest.approx(0, abs=1e-15)  # logits have no zero


def test_perplexity_of_a_uniform_model_is_its_vocabulary():
    distance = compare_logits(np.zeros((5, 4)), np.full((5, 4), 3.0), [0, 1, 2, 3, 0])
    assert distance.perplexity == pytest.approx(4) and distance.reference_perplexity == pytest.approx(4)
    assert (distance.positions, distance.predicted, distance.max_error) == (5, 4, 3.0)


def test_an_impossible_token_of_the_reference_costs_nothing():
    certain = np.array([[0.0, -np.inf]])
    assert compare_logits(certain, np.zeros((1, 2)), [0]).kl == pytest.approx(math.log(2))


def test_agreement_counts_positions():
    reference = np.array([[1, 0], [1, 0], [0, 1], [0, 0]], np.float32)
    found = np.array([[2, 0], [0, 1], [0, 1], [0, 0]], np.float32)
    assert compare_logits(reference, found, [0, 0, 0, 0]).agreement == 0.75


def test_windows_add_up_to_what_pytorch_says():
    generator = torch.Generator().manual_seed(0)
    reference, found = torch.randn(2, 3, 7, 11, generator=generator)
    tokens = torch.randint(11, (3, 7), generator=generator)
    distance = sum(
        (compare_logits(a, b, t) for a, b, t in zip(reference.numpy(), found.numpy(), tokens.numpy(), strict=True)), LogitDistance()
    )
    p, q = reference.double().log_softmax(-1), found.double().log_softmax(-1)
    # 1e-12: float64 sums of 231 terms
    assert distance.kl == pytest.approx(float(F.kl_div(q, p, log_target=True, reduction="sum")) / 21, abs=1e-12)
    loss = F.cross_entropy(found[:, :-1].double().flatten(0, 1), tokens[:, 1:].flatten())
    assert distance.perplexity == pytest.approx(float(loss.exp()), rel=1e-12)
    assert distance.max_error == float((reference.double() - found.double()).abs().max())
    assert set(distance.as_dict()) == {"positions", "max_error", "kl", "top1_agreement", "perplexity", "reference_perplexity"}


def test_one_token_predicts_nothing():
    assert set(compare_logits(np.zeros((1, 2)), np.zeros((1, 2)), [0]).as_dict()) == {"positions", "max_error", "kl", "top1_agreement"}


def test_cosines():
    a = np.array([[[1.0, 0.0], [0.0, 2.0]], [[3.0, 4.0], [0.0, 0.0]]])
    b = np.array([[[2.0, 0.0], [0.0, -1.0]], [[4.0, 3.0], [0.0, 0.0]]])
    found = compare_embeddings(a, b)
    assert (found.count, found.min_cosine) == (4, -1)
    assert found.mean_cosine == pytest.approx((1 - 1 + 24 / 25 + 1) / 4)
    assert compare_embeddings(np.zeros((1, 2)), np.ones((1, 2))).min_cosine == 0


@pytest.mark.parametrize(
    ("reference", "found", "index"),
    [([1, 2], [1, 2], None), ([], [], None), ([1, 2], [1, 3], 1), ([1, 2], [1], 1), ([1], [1, 2], 1), ([], [5], 0)],
)
def test_the_first_difference_of_two_generations(reference, found, index):
    assert first_difference(reference, found) == index
