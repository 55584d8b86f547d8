"""Losses: what a program is trained to make small, from targets, from a teacher's outputs, or from both."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from edgecc.errors import UsageError
from edgecc.ir.dtypes import dtype_name

Outputs = Sequence[torch.Tensor]


def supervised(outputs: Outputs, target: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of logits [n, classes, ...] and classes [n, ...] of integers, or the mean squared error of numbers.

    The first output is meant. Raises UsageError where the target is neither, or has classes that the logits have not.
    """
    output = outputs[0]
    found = f"the target is {dtype_name(target.dtype)}{list(target.shape)}, the output {dtype_name(output.dtype)}{list(output.shape)}"
    if target.is_floating_point():
        if target.shape != output.shape:
            raise UsageError(f"{found}: numbers want the shape of the output", hint="classes are integers; or give a loss of your own")
        return functional.mse_loss(output, target.to(output.dtype))
    if target.dtype == torch.bool or target.is_complex():
        raise UsageError(f"{found}: want integers for classes, or numbers of the output's shape", hint="give a loss of your own")
    if output.dim() < 2 or target.shape != output.shape[:1] + output.shape[2:]:
        raise UsageError(f"{found}: classes want the shape of the output without axis 1", hint="give a loss of your own")
    if target.numel() and not bool(((target >= 0) & (target < output.shape[1])).all()):
        raise UsageError(f"{found}: classes are {int(target.min())} to {int(target.max())}, want 0 to {output.shape[1] - 1}")
    return functional.cross_entropy(output, target.long())


def distilled(kind: str, outputs: Outputs, wanted: Outputs, temperature: float) -> torch.Tensor:
    """How far outputs are from a teacher's, summed over the outputs.

    `mse`: the mean squared error. `kl`: T^2 KL(softmax(teacher / T) || softmax(outputs / T)) over axis 1 (the last of one axis),
    mean over the rest; T^2 keeps the gradient's size. Hinton et al. 2015, section 2.
    """
    total = outputs[0].new_zeros(())
    for output, want in zip(outputs, wanted, strict=True):
        if not output.is_floating_point():
            continue
        total = total + (functional.mse_loss(output, want) if kind == "mse" else _divergence(output, want, temperature))
    return total


def _divergence(output: torch.Tensor, want: torch.Tensor, temperature: float) -> torch.Tensor:
    axis = 1 if output.dim() > 1 else -1
    p, q = (functional.log_softmax(t / temperature, axis) for t in (output, want))
    return functional.kl_div(p, q, reduction="none", log_target=True).sum(axis).mean() * temperature**2
