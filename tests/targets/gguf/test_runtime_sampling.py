"""The next token, by closed form."""

from __future__ import annotations

import numpy as np
import pytest

from edgecc.errors import ContractError, UsageError
from edgecc.targeting.generation import Sampling
from edgecc.targets.gguf.runtime.sampling import choose, generator

LOGITS = np.log(np.array([0.1, 0.4, 0.2, 0.3], np.float32))


def shares(sampling: Sampling, draws: int = 5_000) -> np.ndarray:
    random = generator(sampling)
    return np.bincount([choose(LOGITS, sampling, random) for _ in range(draws)], minlength=4) / draws


def test_temperature_zero_takes_the_first_of_the_likeliest():
    assert choose(np.array([0, 2, 2, 1], np.float32), Sampling(), generator(Sampling())) == 1


@pytest.mark.parametrize(
    ("sampling", "want"),
    [
        (Sampling(1.0), [0.1, 0.4, 0.2, 0.3]),
        (Sampling(0.5), np.array([1, 16, 4, 9]) / 30),  # p^2
        (Sampling(1.0, top_k=2), [0, 4 / 7, 0, 3 / 7]),
        (Sampling(1.0, top_p=0.6), [0, 4 / 7, 0, 3 / 7]),  # .4 is below .6, .7 is not
        (Sampling(1.0, top_p=0.8), [0, 4 / 9, 2 / 9, 3 / 9]),
        (Sampling(1.0, top_k=9), [0.1, 0.4, 0.2, 0.3]),
        (Sampling(0.5, top_p=0.6), [0, 16 / 25, 0, 9 / 25]),  # the temperature comes last
    ],
)
def test_tokens_are_drawn_by_their_probability(sampling, want):
    # 0.03: four standard deviations of a share of 5,000 draws
    np.testing.assert_allclose(shares(sampling), want, atol=0.03)


def test_a_seed_may_be_negative_or_large():
    assert [choose(LOGITS, s, generator(s)) for s in (Sampling(1.0, seed=-1), Sampling(1.0, seed=2**64 - 1))] == [
        choose(LOGITS, Sampling(1.0, seed=-1), generator(Sampling(seed=-1)))
    ] * 2


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_are_refused(temperature):
    sampling = Sampling(temperature)
    with pytest.raises(ContractError, match="logits that are no numbers"):
        choose(np.array([0, np.nan], np.float32), sampling, generator(sampling))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -0.1}, "the temperature is -0.1"),
        ({"temperature": float("nan")}, "the temperature is nan"),
        ({"temperature": float("inf")}, "the temperature is inf"),
        ({"top_k": -1}, "top-k is -1"),
        ({"top_p": 0.0}, "top-p is 0"),
        ({"top_p": 1.5}, "top-p is 1.5"),
    ],
)
def test_values_out_of_range_are_refused(values, message):
    with pytest.raises(UsageError, match=message):
        Sampling(**values)
