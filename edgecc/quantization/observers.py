"""Observers: what they keep of a stream of activations, and the range that each method makes of it.

A histogram of 8192 bins over -R..R, R a power of two that doubles as larger numbers come, sees every number once. The part
below a range's ends is lost to clipping, the rest to rounding; the methods weigh the two differently.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch

from edgecc.errors import UsageError
from edgecc.quantization.affine import affine, dequantize, quantize

Method = Literal["min-max", "moving-average", "percentile", "entropy", "mse"]
_BINS = 8192
_MOMENTUM = 0.9
_SHRINK = torch.linspace(0.3, 1.0, 71, dtype=torch.float64)


def method(name: str) -> Method:
    """Raises UsageError for an unknown one."""
    for known in get_args(Method):
        if name == known:
            return known  # type: ignore[no-any-return]
    raise UsageError(f"unknown calibration method {name!r}", hint=f"one of {', '.join(get_args(Method))}")


@dataclass
class Observer:
    """Extremes, their moving averages and the histogram of every number it was shown."""

    low: float = math.inf
    high: float = -math.inf
    average: tuple[float, float] | None = None
    reach: float = 0.0
    counts: torch.Tensor = field(default_factory=lambda: torch.zeros(_BINS, dtype=torch.float64))

    def see(self, x: torch.Tensor) -> None:
        """Finite numbers; none are fine."""
        if not x.numel():
            return
        low, high = (float(v) for v in torch.aminmax(x))
        self.low, self.high = min(self.low, low), max(self.high, high)
        old = self.average or (low, high)
        self.average = tuple(_MOMENTUM * a + (1 - _MOMENTUM) * b for a, b in zip(old, (low, high), strict=True))  # type: ignore[assignment]
        self._widen(max(-low, high))
        if self.reach:
            self.counts += torch.histc(x.float(), _BINS, -self.reach, self.reach).double()

    @property
    def seen(self) -> bool:
        return self.low <= self.high

    def _widen(self, peak: float) -> None:
        if not peak > self.reach:
            return
        wanted = 2.0 ** math.ceil(math.log2(peak))
        if not self.reach:
            self.reach = wanted
        while self.reach < wanted:
            merged = self.counts.view(-1, 2).sum(1)
            self.counts = torch.zeros_like(self.counts)
            self.counts[_BINS // 4 : 3 * _BINS // 4] = merged
            self.reach *= 2

    def centers(self) -> torch.Tensor:
        """The middle of each bin [bins] f64."""
        width = 2 * self.reach / _BINS
        return -self.reach + width * (torch.arange(_BINS, dtype=torch.float64) + 0.5)


@dataclass(frozen=True)
class Rule:
    """How ranges are made: for integers between `limits`, with zero point 0 if `symmetric`. `percentile`: of numbers kept."""

    limits: tuple[int, int]
    symmetric: bool
    method: Method = "mse"
    percentile: float = 99.99


def extent(seen: Observer, rule: Rule) -> tuple[float, float]:
    """The range low..high of an observer, 0 inside. It must have seen a number."""
    low, high = min(seen.low, 0.0), max(seen.high, 0.0)
    if rule.method == "moving-average":
        assert seen.average is not None
        return min(seen.average[0], 0.0), max(seen.average[1], 0.0)
    if low == high or rule.method == "min-max":
        return low, high
    if rule.method == "percentile":
        return _percentile(seen, low, high, rule.percentile / 100)
    if rule.method == "entropy":
        end = _entropy(seen, rule.limits[1])
        return max(low, -end), min(high, end)
    return _least_error(seen, low, high, rule)


def _percentile(seen: Observer, low: float, high: float, part: float) -> tuple[float, float]:
    """Ends that leave out the same part of the numbers at either side."""
    total = seen.counts.cumsum(0) / seen.counts.sum()
    edges = torch.linspace(-seen.reach, seen.reach, _BINS + 1, dtype=torch.float64)
    below, above = int((total <= 1 - part).sum()), int((total < part).sum()) + 1
    return max(low, min(float(edges[below]), 0.0)), min(high, max(float(edges[min(above, _BINS)]), 0.0))


def _least_error(seen: Observer, low: float, high: float, rule: Rule) -> tuple[float, float]:
    """The part of the extremes whose quantization has the least squared error over the histogram. Nagel et al. 2021, section 3.1."""
    x, weight = seen.centers(), seen.counts
    held = weight > 0
    x, weight = x[held].clamp(low, high), weight[held]
    scale, zero_point = affine(low * _SHRINK, high * _SHRINK, rule.limits, symmetric=rule.symmetric)
    wide, zero = scale.double()[:, None], zero_point[:, None]
    error = (dequantize(quantize(x, wide, zero, rule.limits), wide, zero) - x).square() @ weight
    best = float(_SHRINK[len(_SHRINK) - 1 - int(error.flip(0).argmin())])
    return low * best, high * best


def _entropy(seen: Observer, levels: int) -> float:
    """The end T whose clipped histogram of |x| loses the least by `levels` + 1 steps: KL(P || Q). Migacz 2017, slides 21 to 35."""
    half = seen.counts[_BINS // 2 :] + seen.counts[: _BINS // 2].flip(0)
    half[0] = half[1]  # exact zeros, half of what follows a ReLU, have no error at any scale
    width = seen.reach / len(half)
    last = int(half.nonzero().max()) + 1
    steps = levels + 1
    best, end = math.inf, last
    for stop in range(min(steps, last), last + 1, max(1, last // 256)):
        loss = _divergence(half, stop, steps)
        if loss < best:
            best, end = loss, stop
    return end * width


def _divergence(counts: torch.Tensor, stop: int, steps: int) -> float:
    inside = counts[:stop]
    wanted = inside.clone()
    wanted[-1] += counts[stop:].sum()
    places = torch.arange(stop) * steps // stop
    mass = torch.zeros(steps, dtype=torch.float64).index_add_(0, places, inside)
    filled = torch.zeros(steps, dtype=torch.float64).index_add_(0, places, (inside > 0).double())
    given = torch.where(inside > 0, mass[places] / filled[places].clamp(min=1), torch.zeros_like(inside))
    p, q = wanted / wanted.sum(), given / given.sum().clamp(min=1e-300)
    held = p > 0
    return float((p[held] * (p[held] / q[held].clamp(min=1e-12)).log()).sum())
