"""Distance between two sets of outputs, and the check of what a pass promised about it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import torch

from edgecc.pipeline.base import Exact, Lossy, Numerics, Reordered

Outputs = Sequence[torch.Tensor]
#: Unit roundoffs that the outputs of a model of half precision may differ by, over their magnitude: 2 % for float16, whose unit
#: roundoff is 2^-11, and 16 % for bfloat16 with 2^-8. Errors of a few dozen layers that all point the same way; a wrong
#: lowering is off by the magnitude itself.
ROUNDINGS = 40


def rounding(dtypes: Iterable[torch.dtype]) -> float:
    """The tolerance that the coarsest of these dtypes needs, 0 where none is of half precision."""
    return max((ROUNDINGS * torch.finfo(d).eps / 2 for d in dtypes if d in (torch.float16, torch.bfloat16)), default=0.0)


def widened(promise: Numerics, tolerance: float) -> Numerics:
    """A promise of reassociation with at least this tolerance; any other as it is."""
    return Reordered(max(promise.tolerance, tolerance)) if isinstance(promise, Reordered) else promise


@dataclass(frozen=True)
class Distance:
    """How far `got` is from `want`, over all outputs and cases.

    `max_abs` is the largest difference, `relative` that over the largest magnitude of the same output, `cosine` the
    smallest cosine of an output, `sqnr_db` the smallest 10 log10(signal power / noise power), infinite where equal.
    `equal` means bit for bit (NaN equals NaN).
    """

    equal: bool = True
    max_abs: float = 0.0
    relative: float = 0.0
    cosine: float = 1.0
    sqnr_db: float = math.inf

    def worst(self, other: Distance) -> Distance:
        return Distance(
            self.equal and other.equal,
            max(self.max_abs, other.max_abs),
            max(self.relative, other.relative),
            min(self.cosine, other.cosine),
            min(self.sqnr_db, other.sqnr_db),
        )

    def as_dict(self) -> dict[str, float | bool | None]:
        """JSON has no infinity: an infinite figure is null."""
        return {k: (v if not isinstance(v, float) or math.isfinite(v) else None) for k, v in asdict(self).items()}

    def broken(self, promise: Numerics) -> str:
        """Why the promise does not hold, `""` where it does."""
        if self.equal:
            return ""
        if isinstance(promise, Exact):
            return f"the outputs differ by up to {self.max_abs:.3g}, want bit-equal"
        if isinstance(promise, Lossy):
            return (
                f"SQNR is {self.sqnr_db:.1f} dB, want at least {promise.min_sqnr_db:g} dB"
                if not self.sqnr_db >= promise.min_sqnr_db
                else ""
            )
        return (
            f"the outputs differ by {self.relative:.3g} of their magnitude, want at most {promise.tolerance:g}"
            if not self.relative <= promise.tolerance
            else ""
        )


def distance(want: Outputs, got: Outputs) -> Distance:
    """Compare outputs pairwise. A shape or dtype that differs, or a NaN on one side only, is infinitely far."""
    total = Distance()
    for a, b in zip(want, got, strict=True):
        total = total.worst(_one(a, b))
    return total


def compare(want: Sequence[Outputs], got: Sequence[Outputs]) -> Distance:
    """The worst distance over several cases."""
    total = Distance()
    for a, b in zip(want, got, strict=True):
        total = total.worst(distance(a, b))
    return total


FAR = Distance(False, math.inf, math.inf, -1.0, -math.inf)


def _one(want: torch.Tensor, got: torch.Tensor) -> Distance:
    if want.shape != got.shape or want.dtype != got.dtype:
        return FAR
    if want.numel() == 0 or torch.equal(want, got):
        return Distance()
    a, b = want.double().flatten(), got.double().flatten()
    same = (a == b) | (a.isnan() & b.isnan())
    if bool(same.all()):
        return Distance()
    if not bool((a.isfinite() & b.isfinite())[~same].all()):
        return FAR
    a, b = a[a.isfinite() & b.isfinite()], b[a.isfinite() & b.isfinite()]
    noise, signal = a - b, float(a.norm())
    peak, error, power = float(a.abs().max()), float(noise.abs().max()), float(noise.norm())
    cosine = float(a @ b) / (signal * float(b.norm())) if signal and float(b.norm()) else 0.0
    sqnr = 20 * math.log10(signal / power) if signal and power else (-math.inf if power else math.inf)
    return Distance(False, error, error / peak if peak else math.inf, min(cosine, 1.0), sqnr)
