"""Round the columns of a weight one after another, and let the later ones make up for the error of the earlier ones.

With H the sum of x x^T over the inputs x, column j is rounded and the columns after it move by -(w_j - q_j) / C_jj C_j,j+1.., C
the upper Cholesky factor of H^-1. Frantar et al. 2022 (GPTQ), section 3, equation 2 and algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

_BLOCK = 128


def damped(moments: torch.Tensor, damping: float) -> torch.Tensor:
    """H with `damping` times the mean of its diagonal added to the diagonal; inputs that are always 0 count as independent. [k, k]"""
    found = moments.clone()
    diagonal = found.diagonal()
    mean = diagonal.mean()
    diagonal[diagonal == 0] = mean if mean > 0 else 1.0
    diagonal += damping * diagonal.mean()
    return found


def inverse_factor(moments: torch.Tensor) -> torch.Tensor:
    """Upper Cholesky factor of the inverse of H [k, k], of the same dtype. Raises torch.linalg.LinAlgError where H is singular."""
    found: torch.Tensor = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(moments)), upper=True)
    return found


def round_columns(columns: torch.Tensor, factor: torch.Tensor, nearest: Callable[[int, torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """The rounded weight. columns [k, rows], the weight transposed, which is overwritten; factor [k, k] of `inverse_factor`.

    `nearest(j, column)` gives the numbers that column j [rows] is rounded to.
    """
    out = torch.empty_like(columns)
    count = len(columns)
    for start in range(0, count, _BLOCK):
        stop = min(start + _BLOCK, count)
        errors = columns.new_empty(stop - start, columns.shape[1])
        for j in range(start, stop):
            out[j] = nearest(j, columns[j])
            errors[j - start] = (columns[j] - out[j]) / factor[j, j]
            columns[j + 1 : stop].addr_(factor[j, j + 1 : stop], errors[j - start], alpha=-1)
        columns[stop:].addmm_(factor[start:stop, stop:].T, errors, alpha=-1)
    return out
