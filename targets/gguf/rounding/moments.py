"""What is known of the vectors x that a linear layer reads, summed over calibration data."""

from __future__ import annotations

from dataclasses import dataclass

import torch

#: How much of the drift the weights follow. All of it fits the calibration data better and other data worse.
_FOLLOWED = 0.5
_DAMPING = 0.01


@dataclass(frozen=True)
class Moments:
    """Sums over `count` vectors: `squares` of x^2 [in] f64; `products` of x x^T [in, in] f32; `drift` of (z - x) x^T [in, in] f32, where
    z is what the layer would read had nothing before it been rounded. The matrices are None where only squares were asked for.
    """

    count: int
    squares: torch.Tensor
    products: torch.Tensor | None = None
    drift: torch.Tensor | None = None

    @property
    def importance(self) -> torch.Tensor:
        """Mean x^2 of each channel [in] f32, all above 0: a channel that was never seen counts least, not nothing."""
        mean = (self.squares / max(1, self.count)).float()
        return mean.clamp_min(float(mean.mean()) * 1e-6 or 1.0)

    def columns(self, index: torch.Tensor) -> Moments:
        """Of x[index], for a weight whose columns were put in that order."""
        products, drift = (None if m is None else m[index][:, index] for m in (self.products, self.drift))
        return Moments(self.count, self.squares[index], products, drift)

    def target(self, weight: torch.Tensor) -> torch.Tensor:
        """What to round instead of weight [out, in] f32, so that the output follows W z rather than W x.

        W + a W D (H + d)^-1 minimizes ||W z - T x||^2 for a = 1 (Li et al. 2025, GPTAQ, has the same aim); d damps it towards W.
        """
        if self.drift is None or self.products is None or not bool(self.drift.any()):
            return weight
        damped = self.products.clone()
        damped.diagonal().add_(_DAMPING * float(damped.diagonal().mean()))
        follow = torch.cholesky_solve(self.drift.T, torch.linalg.cholesky(damped)).T
        return torch.addmm(weight, weight, follow, alpha=_FOLLOWED)
