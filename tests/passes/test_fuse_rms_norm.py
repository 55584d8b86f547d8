"""fuse-rms-norm: Llama's, T5's and Gemma's spelling become one operator."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from edgecc.ir.signature import Dim
from edgecc.passes.fuse_rms_norm import FuseRmsNorm
from edgecc.testing import operators
from tests.rewrite.fusing import fused, normal, reasons

X, W = normal(2, 5, 8), normal(8, seed=1)
Function = Callable[[Tensor, Tensor], Tensor]


def llama(x: Tensor, w: Tensor) -> Tensor:
    dtype = x.dtype
    h = x.to(torch.float32)
    h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6)
    return w * h.to(dtype)


def gemma(x: Tensor, w: Tensor) -> Tensor:
    h = x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-6)
    return (h * (1.0 + w.float())).type_as(x)


SPELLINGS: dict[str, Function] = {
    "Llama": llama,
    "x / sqrt": lambda x, w: x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-5) * w,
    "power": lambda x, w: w * (x * (x.square().mean(-1, keepdim=True) + 1e-5).pow(-0.5)),
    "sum over count": lambda x, w: x / torch.sqrt((x**2).sum(-1, keepdim=True) / 8 + 1e-5) * w,
    "2-norm": lambda x, w: x / x.norm(dim=-1, keepdim=True) * 8**0.5 * w,
    "no weight": lambda x, w: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5),
    "rms_norm, then weight": lambda x, w: F.rms_norm(x, (8,), eps=1e-6) * w,
}


@pytest.mark.parametrize("function", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_every_spelling_is_one_rms_norm(function: Function) -> None:
    program, count, context = fused(FuseRmsNorm(), function, X, W)
    assert count == 1 and operators(program) == ["aten.rms_norm"] and reasons(context) == []


def test_gemmas_weight_stays_computed() -> None:
    program, count, _ = fused(FuseRmsNorm(), gemma, X, W)
    assert count == 1 and [o for o in operators(program) if "to." not in o and "type" not in o] == ["aten.add.Tensor", "aten.rms_norm"]


LEFT_ALONE: dict[str, tuple[Function, str]] = {
    "eps outside of the root": (
        lambda x, w: x / ((x * x).mean(-1, keepdim=True).sqrt() + 1e-6) * w,
        "eps is added to the root, rms_norm adds it to the mean square",
    ),
    "another axis": (lambda x, w: x * torch.rsqrt(x.pow(2).mean(-2, keepdim=True) + 1e-6) * w, "mean has axis -2, want -1"),
    "another x": (
        lambda x, w: x.relu() * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6),
        "x is %x in one place and %relu in another",
    ),
    "layer_norm": (
        lambda x, w: (x - x.mean(-1, keepdim=True)) * torch.rsqrt(x.var(-1, keepdim=True, unbiased=False) + 1e-6),
        "the mean is subtracted first: that is layer_norm",
    ),
}


@pytest.mark.parametrize(("function", "reason"), LEFT_ALONE.values(), ids=LEFT_ALONE.keys())
def test_a_look_alike_is_left_alone_with_the_reason(function: Function, reason: str) -> None:
    program, count, context = fused(FuseRmsNorm(), function, X, W)
    assert count == 0 and "aten.rms_norm" not in operators(program) and reason in reasons(context)


def test_a_cast_that_changes_the_dtype_stays_around_the_float32_part() -> None:
    program, count, _ = fused(FuseRmsNorm(), llama, X.half(), W.half())
    assert count == 1 and operators(program) == ["aten.to.dtype", "aten.rms_norm", "aten.to.dtype", "aten.mul.Tensor"]


def test_it_fuses_with_dynamic_sizes() -> None:
    program, count, _ = fused(FuseRmsNorm(), llama, X, W, dims={"x": {0: Dim("batch", 1, 8), 1: Dim("seq", 1, 64)}})
    assert count == 1 and program(normal(3, 9, 8), W)[0].shape == (3, 9, 8)
