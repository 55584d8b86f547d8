"""Metrics: how far llama.cpp's logits and embeddings are from PyTorch's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class LogitDistance:
    """Sums over the positions of one or more windows; `+` joins two. Divergence and losses are in nats.

    `agreeing`: positions with the same likeliest token. `reference_loss`, `loss`: cross entropies of the next tokens, of
    which there are `predicted`.
    """

    positions: int = 0
    max_error: float = 0.0
    divergence: float = 0.0
    agreeing: int = 0
    predicted: int = 0
    reference_loss: float = 0.0
    loss: float = 0.0

    def __add__(self, other: LogitDistance) -> LogitDistance:
        return LogitDistance(
            self.positions + other.positions,
            max(self.max_error, other.max_error),
            self.divergence + other.divergence,
            self.agreeing + other.agreeing,
            self.predicted + other.predicted,
            self.reference_loss + other.reference_loss,
            self.loss + other.loss,
        )

    @property
    def kl(self) -> float:
        """Mean KL(reference || found) of a position, in nats. Kullback and Leibler 1951, equation 2.4"""
        return self.divergence / max(self.positions, 1)

    @property
    def agreement(self) -> float:
        """The share of positions with the same likeliest token."""
        return self.agreeing / max(self.positions, 1)

    @property
    def reference_perplexity(self) -> float:
        return math.exp(self.reference_loss / max(self.predicted, 1))

    @property
    def perplexity(self) -> float:
        return math.exp(self.loss / max(self.predicted, 1))

    def as_dict(self) -> dict[str, float | int]:
        """Values for report.json; perplexities only where tokens were predicted."""
        found: dict[str, float | int] = {
            "positions": self.positions,
            "max_error": self.max_error,
            "kl": self.kl,
            "top1_agreement": self.agreement,
        }
        if self.predicted:
            found |= {"perplexity": self.perplexity, "reference_perplexity": self.reference_perplexity}
        return found


def compare_logits(reference: Array, found: Array, tokens: Sequence[int] | Array) -> LogitDistance:
    """The distance in one window. reference, found [n, vocab]; tokens [n]: each position predicts the next one's.

    Of equally likely tokens the first counts. Logarithms in float64.
    """
    wanted, given = log_softmax(reference), log_softmax(found)
    rows, following = np.arange(len(tokens) - 1), np.asarray(tokens)[1:]
    possible = wanted > -np.inf  # the rest adds nothing: p ln p goes to 0
    p, q = wanted[possible], given[possible]
    return LogitDistance(
        positions=len(wanted),
        max_error=float(np.abs(reference[possible].astype(np.float64) - found[possible]).max(initial=0.0)),
        divergence=float((np.exp(p) * (p - q)).sum()),
        agreeing=int(np.count_nonzero(wanted.argmax(-1) == given.argmax(-1))),
        predicted=len(rows),
        reference_loss=-float(wanted[rows, following].sum()),
        loss=-float(given[rows, following].sum()),
    )


def log_softmax(logits: Array) -> Array:
    """Logarithms of the probabilities along the last axis, float64."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


@dataclass(frozen=True)
class EmbeddingDistance:
    """Cosines of the angles between embeddings."""

    count: int
    min_cosine: float
    mean_cosine: float

    def as_dict(self) -> dict[str, float | int]:
        return {"embeddings": self.count, "min_cosine": self.min_cosine, "mean_cosine": self.mean_cosine}


def compare_embeddings(reference: Array, found: Array) -> EmbeddingDistance:
    """reference, found [..., width]. Two zero vectors have cosine 1, a zero and another one 0."""
    a, b = (x.reshape(-1, x.shape[-1]).astype(np.float64) for x in (reference, found))
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    cosines = np.divide((a * b).sum(-1), lengths, out=(a == b).all(-1).astype(np.float64), where=lengths > 0)
    return EmbeddingDistance(len(a), float(cosines.min()), float(cosines.mean()))


def first_difference(reference: Sequence[int], found: Sequence[int]) -> int | None:
    """The index of the first token in which two generations differ, also by their lengths; None where they are equal."""
    if list(reference) == list(found):
        return None
    pairs = enumerate(zip(reference, found, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(reference), len(found)))
