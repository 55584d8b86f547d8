"""Telling an input of positions from a mask."""

from __future__ import annotations

import torch


def are_positions(name: str, example: torch.Tensor) -> bool:
    """Whether an input that indexes no table holds positions, and not a mask: by its name, or by an example that counts from 0.

    Two tokens are too few to tell by: 0 and 1 may be a mask.
    """
    counted = torch.arange(example.shape[-1]) if example.dim() else example
    return "position" in name or (
        example.dim() > 0 and example.shape[-1] > 2 and torch.equal(example.long(), counted.expand(example.shape))
    )
