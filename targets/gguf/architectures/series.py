"""Series that llama.cpp makes numbers of, fitted to those of a model: rotary frequencies and ALiBi slopes."""

from __future__ import annotations

import math

import torch


def geometric(frequencies: torch.Tensor) -> tuple[float, float] | None:
    """Base and factor where the k-th of n frequencies is base^(-k / n) / factor, None where they are no such series.

    Both are rounded to six digits, which is within the precision of tables in float32: 5e-6 each of a frequency, and 2e-5 with that.
    """
    count = len(frequencies)
    factor = 1 / float(frequencies[0])
    factor = 1.0 if abs(factor - 1) < 1e-5 else float(f"{factor:.6g}")
    if count == 1:
        return 10000.0, factor
    base = float(frequencies[-1] * factor) ** (-count / (count - 1))
    base = float(f"{base:.6g}")
    wanted = torch.tensor([base ** (-k / count) / factor for k in range(count)], dtype=torch.float64)
    return (base, factor) if torch.allclose(frequencies, wanted, rtol=2e-5, atol=0) else None


def max_bias(slopes: torch.Tensor, heads: int) -> float | None:
    """The `max_alibi_bias` of which ggml makes these slopes for the first of `heads` heads, None where there is none.

    Press et al. 2022, section 3. It is rounded to five digits, which are 4e-5 of a slope for the usual 8: 1e-4 is allowed.
    """
    low = 2 ** math.floor(math.log2(heads))
    bias = -math.log2(float(slopes[0])) * low if float(slopes[0]) > 0 else 0.0
    bias = float(f"{bias:.5g}")
    wanted = [2 ** (-bias * (h + 1) / low) if h < low else 2 ** (-bias / 2 / low * (2 * (h - low) + 1)) for h in range(len(slopes))]
    return bias if bias > 0 and torch.allclose(slopes.double(), torch.tensor(wanted, dtype=torch.float64), rtol=1e-4) else None
