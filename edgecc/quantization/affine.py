"""Affine quantization: integers q = round(x / s) + z, clamped, that stand for (q - z) * s.

Krishnamoorthi 2018, section 2; Jacob et al. 2018, equation 1.
"""

from __future__ import annotations

import torch

#: The least scale: a channel of zeros has one too, and 1 / s stays finite in float32.
TINY = 1e-12


def symmetric_scale(peak: torch.Tensor, high: int) -> torch.Tensor:
    """s = max|x| / high, at least TINY. peak [...] -> [...] f32."""
    return (peak.double() / high).clamp(min=TINY).float()


def affine(low: torch.Tensor, high: torch.Tensor, limits: tuple[int, int], *, symmetric: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale f32 and zero point i32 that cover low..high, with 0 exactly an integer. low, high [...] -> [...]."""
    least, most = limits
    low, high = low.double().clamp(max=0), high.double().clamp(min=0)
    if symmetric:
        return symmetric_scale(torch.maximum(-low, high), most), torch.zeros(low.shape, dtype=torch.int32)
    scale = ((high - low) / (most - least)).clamp(min=TINY)
    zero_point = (least - low / scale).round().clamp(least, most)
    return scale.float(), zero_point.to(torch.int32)


def quantize(x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, limits: tuple[int, int]) -> torch.Tensor:
    """The integers, in x's dtype: round half to even of x * (1 / s), as torch's own operators do. Shapes broadcast."""
    return (torch.round(x * (1.0 / scale)) + zero_point).clamp(*limits)


def dequantize(q: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor) -> torch.Tensor:
    return (q - zero_point) * scale
