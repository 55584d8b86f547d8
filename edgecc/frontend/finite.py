"""Refuse weights that are not finite: a model with a NaN compiles well and predicts nothing."""

from __future__ import annotations

import torch

from edgecc.errors import UsageError
from edgecc.ir.lazy import is_lazy


def check_finite(module: torch.nn.Module) -> None:
    """Pass a module whose parameters are finite and whose buffers hold no NaN; an infinite buffer may be a mask.

    Lazy weights pass: whoever reads them checks them.

    Raises UsageError that names every other tensor, with the count of its bad values.
    """
    named = [(name, _bad(p, inf=True)) for name, p in module.named_parameters()]
    named += [(name, _bad(b, inf=False)) for name, b in module.named_buffers()]
    wrong = [f"{name} ({count})" for name, count in named if count]
    if wrong:
        shown = ", ".join(wrong[:20]) + (f" and {len(wrong) - 20} more" if len(wrong) > 20 else "")
        raise UsageError(
            f"weights hold NaN or infinite values: {shown}", hint="check the training run; --allow-nonfinite compiles it all the same"
        )


def _bad(tensor: torch.Tensor, *, inf: bool) -> int:
    if is_lazy(tensor) or tensor.is_meta or not (tensor.is_floating_point() or tensor.is_complex()):
        return 0
    bad = ~torch.isfinite(tensor) if inf else torch.isnan(tensor)
    return int(bad.sum())
