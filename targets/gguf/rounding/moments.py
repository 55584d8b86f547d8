"""What is known of the vectors x that a linear layer reads, summed over calibration data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from edgecc.quantization.columns import damped, inverse_factor

#: How much of the drift the weights follow. All of it fits the calibration data better and other data worse.
_FOLLOWED = 0.5
_DAMPING = 0.01


@dataclass(frozen=True)
class Moments:
    """Sums over `count` vectors: `squares` of x^2 [in] f64; `products` of x x^T [in, in] f32; `drift` of (z - x) x^T [in, in] f32, where
    z is what the layer would read had nothing before it been rounded. The matrices are None where only squares were asked for.

    What rounding needs of the matrices is computed once, for all weights that read x.
    """

    count: int
    squares: torch.Tensor
    products: torch.Tensor | None = None
    drift: torch.Tensor | None = None

    @property
    def importance(self) -> torch.Tensor:
        """Mean x^2 of each channel [in] f32, all above 0: a channel that was never seen counts least, not nothing."""
        return above_zero(self.means)

    @property
    def means(self) -> torch.Tensor:
        """Mean x^2 of each channel [in] f32."""
        return (self.squares / max(1, self.count)).float()

    def columns(self, index: torch.Tensor) -> Moments:
        """Of x[index], for a weight whose columns were put in that order."""
        products, drift = (None if m is None else m[index][:, index] for m in (self.products, self.drift))
        return Moments(self.count, self.squares[index], products, drift)

    @cached_property
    def damped(self) -> torch.Tensor:
        """The products as rounding takes them [in, in] f32, positive definite."""
        assert self.products is not None
        return damped(self.products, _DAMPING)

    @cached_property
    def order(self) -> torch.Tensor:
        """The channels with the largest first [in] i64."""
        return self.damped.diagonal().argsort(descending=True, stable=True)

    @cached_property
    def factor(self) -> torch.Tensor:
        """`inverse_factor` of the damped products in that order. In double precision: in single it may fail where inputs are nearly dependent."""
        return inverse_factor(self.damped[self.order][:, self.order].double()).float()

    def target(self, weight: torch.Tensor) -> torch.Tensor:
        """What to round instead of weight [out, in] f32, so that the output follows W z rather than W x.

        W + a W D (H + d)^-1 minimizes ||W z - T x||^2 for a = 1 (Li et al. 2025, GPTAQ, has the same aim); d damps it towards W.
        """
        return weight if self._drawn is None else torch.addmm(weight, weight, self._drawn, alpha=_FOLLOWED)

    @cached_property
    def _drawn(self) -> torch.Tensor | None:
        """D (H + d)^-1 [in, in], or None where nothing drifts."""
        if self.drift is None or self.products is None or not bool(self.drift.any()):
            return None
        wider = self.products.clone()
        wider.diagonal().add_(_DAMPING * float(wider.diagonal().mean()))
        return torch.cholesky_solve(self.drift.T, torch.linalg.cholesky(wider)).T


def above_zero(means: torch.Tensor) -> torch.Tensor:
    """Means of squares with none below a millionth of their mean; ones where all are zero."""
    return means.clamp_min(float(means.mean()) * 1e-6 or 1.0)
