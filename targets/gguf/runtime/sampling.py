"""Sampling: the next token from logits, in the order of llama.cpp: the k likeliest, then top-p, then the temperature."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgecc.errors import ContractError
from edgecc.targeting.generation import Sampling

Vector = np.ndarray[Any, Any]


def generator(sampling: Sampling) -> np.random.Generator:
    return np.random.default_rng(sampling.seed % 2**64)


def choose(logits: Vector, sampling: Sampling, generator: np.random.Generator) -> int:
    """The id of the next token; of equally likely ones the first. logits [vocab] f32. Raises ContractError for NaN.

    Top-p leaves the fewest likeliest tokens whose probabilities reach p. Holtzman et al. 2020, section 3.1
    """
    best = int(np.argmax(logits))
    if np.isnan(logits[best]):
        raise ContractError("the model gives logits that are no numbers")
    if sampling.temperature == 0:
        return best
    order = np.argsort(-logits, kind="stable")[: sampling.top_k or None]
    kept = logits[order].astype(np.float64)
    if sampling.top_p < 1:
        before = np.cumsum(_softmax(kept)) - _softmax(kept)
        kept = kept[: max(1, int(np.count_nonzero(before < sampling.top_p)))]
    return int(order[generator.choice(len(kept), p=_softmax(kept / sampling.temperature))])


def _softmax(values: Vector) -> Vector:
    e = np.exp(values - values.max())
    return np.asarray(e / e.sum())
