"""fuse-layer-norm: every spelling becomes one operator, and look-alikes are told apart."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from edgecc.ir.signature import Dim
from edgecc.passes.fuse_layer_norm import FuseLayerNorm
from edgecc.testing import operators
from tests.rewrite.fusing import fused, normal, reasons

X, W, B = normal(2, 5, 8), normal(8, seed=1), normal(8, seed=2)
Function = Callable[[Tensor, Tensor, Tensor], Tensor]


def mean(x: Tensor) -> Tensor:
    return x.mean(-1, keepdim=True)


def two_pass(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    c = x - mean(x)
    return c / torch.sqrt((c * c).mean(-1, keepdim=True) + 1e-5) * w + b


def var_mean(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    v, u = torch.var_mean(x, -1, keepdim=True, unbiased=False)
    return (x - u) * (v + 1e-5) ** -0.5 * w + b


def without_keepdim(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    u, v = x.mean(-1), x.var(-1, correction=0)
    return (x - u.unsqueeze(-1)) / (v[..., None] + 1e-5).sqrt() * w + b


def sums(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    c = x - x.sum(-1, keepdim=True) / 8
    return c * (1 / (c.pow(2).sum(-1, keepdim=True) / 8 + 1e-5).sqrt()) * w + b


def centred_twice(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return (x - mean(x)) / torch.sqrt(((x - mean(x)) ** 2).mean(-1, keepdim=True) + 1e-5) * w + b


SPELLINGS: dict[str, Function] = {
    "two passes": two_pass,
    "var(unbiased=False)": lambda x, w, b: w * (x - mean(x)) / torch.sqrt(x.var(-1, keepdim=True, unbiased=False) + 1e-5) + b,
    "rsqrt, bias first": lambda x, w, b: b + w * ((x - mean(x)) * torch.rsqrt(x.var(-1, keepdim=True, correction=0) + 1e-5)),
    "var_mean and a power": var_mean,
    "reductions without keepdim": without_keepdim,
    "sums": sums,
    "centred twice": centred_twice,
    "std squared": lambda x, w, b: (x - mean(x)) / (x.std(-1, keepdim=True, unbiased=False) ** 2 + 1e-5).sqrt() * w + b,
    "E[x^2] - E[x]^2": lambda x, w, b: (x - mean(x)) / torch.sqrt(mean(x * x) - mean(x) ** 2 + 1e-5) * w + b,
    "addcmul": lambda x, w, b: torch.addcmul(b, (x - mean(x)) * torch.rsqrt(x.var(-1, keepdim=True, unbiased=False) + 1e-5), w),
    "weight only": lambda x, w, b: (x - mean(x)) / torch.sqrt(x.var(-1, keepdim=True, unbiased=False) + 1e-5) * w,
    "no affine": lambda x, w, b: (x - mean(x)) / torch.sqrt(x.var(-1, keepdim=True, unbiased=False) + 1e-5),
    "layer_norm, then affine": lambda x, w, b: F.layer_norm(x, (8,)) * w + b,
    "layer_norm, then weight": lambda x, w, b: w * F.layer_norm(x, (8,), eps=1e-3),
    "layer_norm with weight, then bias": lambda x, w, b: F.layer_norm(x, (8,), w) + b,
}


@pytest.mark.parametrize("function", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_every_spelling_is_one_layer_norm(function: Function) -> None:
    program, count, context = fused(FuseLayerNorm(), function, X, W, B)
    assert count == 1 and operators(program) == ["aten.layer_norm"] and reasons(context) == []


def channels_first(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """As ConvNeXt writes it."""
    u = x.mean(1, keepdim=True)
    s = (x - u).pow(2).mean(1, keepdim=True)
    x = (x - u) / torch.sqrt(s + 1e-6)
    return w[:, None, None] * x + b[:, None, None]


def test_channels_first_is_permuted_there_and_back() -> None:
    program, count, _ = fused(FuseLayerNorm(), channels_first, normal(2, 8, 3, 5), W, B)
    assert count == 1
    assert [o for o in operators(program) if o in ("aten.permute", "aten.layer_norm")] == [
        "aten.permute",
        "aten.layer_norm",
        "aten.permute",
    ]


def test_channels_first_of_three_axes() -> None:
    def function(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return (x - x.mean(1, keepdim=True)) / torch.sqrt(x.var(1, keepdim=True, unbiased=False) + 1e-6) * w[:, None] + b[:, None]

    program, count, _ = fused(FuseLayerNorm(), function, normal(2, 8, 5), W, B)
    assert count == 1 and operators(program).count("aten.layer_norm") == 1


def test_a_residual_beside_it_stays() -> None:
    program, count, _ = fused(FuseLayerNorm(), lambda x, w, b: x + two_pass(x, w, b), X, W, B)
    assert count == 1 and operators(program) == ["aten.layer_norm", "aten.add.Tensor"]


def test_a_scale_that_depends_on_the_input_stays_outside() -> None:
    program, count, _ = fused(FuseLayerNorm(), lambda x, w, b: two_pass(x, 1 + x[:, :1], x[:, 1:2]), X, W, B)
    assert count == 1 and operators(program).count("aten.layer_norm") == 1
    assert operators(program)[-2:] == ["aten.mul.Tensor", "aten.add.Tensor"]


LEFT_ALONE: dict[str, tuple[Function, str]] = {
    "unbiased variance": (
        lambda x, w, b: w * (x - mean(x)) / torch.sqrt(x.var(-1, keepdim=True) + 1e-5) + b,
        "the result is scaled by 0.935414, as an unbiased variance does; layer_norm divides by the count",
    ),
    "eps outside of the root": (
        lambda x, w, b: w * (x - mean(x)) / (x.std(-1, keepdim=True, unbiased=False) + 1e-5) + b,
        "eps is added to the standard deviation, layer_norm adds it to the variance",
    ),
    "unbiased and eps outside": (
        lambda x, w, b: w * (x - mean(x)) / (x.std(-1, keepdim=True) + 1e-5) + b,
        "eps is added to the standard deviation, layer_norm adds it to the variance",
    ),
    "two different axes": (
        lambda x, w, b: w * (x - x.mean(-2, keepdim=True)) / torch.sqrt(x.var(-1, keepdim=True, unbiased=False) + 1e-5) + b,
        "mean has axis -2, want -1",
    ),
    "the batch axis": (
        lambda x, w, b: (x - x.mean(0, keepdim=True)) / torch.sqrt(x.var(0, keepdim=True, unbiased=False) + 1e-5),
        "axis 0 of 3 is normalized, want the last axis or channels first (axis 1)",
    ),
    "another x": (
        lambda x, w, b: w * (x.relu() - mean(x)) / torch.sqrt(x.var(-1, keepdim=True, unbiased=False) + 1e-5) + b,
        "x is %x in one place and %relu in another",
    ),
}


@pytest.mark.parametrize(("function", "reason"), LEFT_ALONE.values(), ids=LEFT_ALONE.keys())
def test_a_look_alike_is_left_alone_with_the_reason(function: Function, reason: str) -> None:
    _, count, context = fused(FuseLayerNorm(), function, X, W, B)
    assert count == 0 and reasons(context) == [reason]


def test_a_variance_that_is_used_outside_keeps_the_spelling() -> None:
    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        v = x.var(-1, keepdim=True, unbiased=False)
        return (x - mean(x)) / torch.sqrt(v + 1e-5), v

    _, count, context = fused(FuseLayerNorm(), function, X)
    assert count == 0 and reasons(context) == ["%var is used outside the pattern by %output"]


def test_rms_norm_is_no_near_miss() -> None:
    _, count, context = fused(FuseLayerNorm(), lambda x, w: x * torch.rsqrt(mean(x * x) + 1e-6) * w, X, W)
    assert count == 0 and reasons(context) == []


def test_it_fuses_with_dynamic_sizes() -> None:
    dims = {"x": {0: Dim("batch", 1, 8), 1: Dim("seq", 1, 64)}}
    program, count, _ = fused(FuseLayerNorm(), two_pass, X, W, B, dims=dims)
    assert count == 1 and operators(program) == ["aten.layer_norm"]
    assert program(normal(3, 9, 8), W, B)[0].shape == (3, 9, 8)


def test_a_normalized_axis_of_symbolic_size_is_refused() -> None:
    dims = {"x": {2: Dim("width", 2, 64)}}
    _, count, context = fused(FuseLayerNorm(), lambda x: (x - mean(x)) * torch.rsqrt(mean((x - mean(x)) ** 2) + 1e-5), X, dims=dims)
    assert count == 0 and len(reasons(context)) == 1 and "symbolic size" in reasons(context)[0]


def test_a_normalized_value_with_two_affine_maps_fuses_without_either() -> None:
    def function(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        n = (x - mean(x)) * torch.rsqrt(x.var(-1, keepdim=True, unbiased=False) + 1e-5)
        return (n * w + b) * torch.sigmoid(n * b + w)

    program, count, _ = fused(FuseLayerNorm(), function, X, W, B)
    assert count == 1 and operators(program)[0] == "aten.layer_norm"


def test_a_chain_of_norms_fuses_once_each() -> None:
    program, count, _ = fused(FuseLayerNorm(), lambda x, w, b: two_pass(two_pass(two_pass(x, w, b), w, b), w, b), X, W, B)
    assert count == 3 and operators(program) == ["aten.layer_norm"] * 3
