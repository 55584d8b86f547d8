"""fuse-attention: eager attention in its usual spellings becomes one operator with the same results, masked rows included."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch.nn import functional as F

from edgecc.ir.ops import bound_arguments
from edgecc.ir.program import Program
from edgecc.ir.signature import Dim
from edgecc.passes.fuse_attention import FuseAttention
from edgecc.testing import operators
from tests.rewrite.fusing import fused, normal, reasons

aten = torch.ops.aten
Q, K, V = (normal(2, 3, 5, 8, seed=i) for i in range(3))
X = normal(2, 5, 24)
SCALE = 1 / math.sqrt(8)
Function = Callable[..., Tensor]


def attention_of(program: Program) -> fx.Node:
    """The only attention, where nothing of the eager form is left."""
    assert not {"aten.softmax.int", "aten.matmul", "aten.bmm", "aten.einsum", "aten.baddbmm"} & set(operators(program))
    (node,) = program.calls(aten.scaled_dot_product_attention.default)
    return node


def heads(x: Tensor) -> Tensor:
    """[b, s, 24] to [b, 3, s, 8]."""
    return x.view(x.shape[0], x.shape[1], 3, 8).transpose(1, 2)


PLAIN: dict[str, Function] = {
    "scores / sqrt(d)": lambda q, k, v: (q @ k.transpose(-1, -2) / math.sqrt(8)).softmax(-1) @ v,
    "scores * scale": lambda q, k, v: F.softmax(torch.matmul(q, k.transpose(2, 3)) * SCALE, dim=-1, dtype=torch.float32).to(q.dtype) @ v,
    "scale on q": lambda q, k, v: ((q * SCALE) @ k.mT).softmax(-1) @ v,
    "scale on k": lambda q, k, v: (q @ (k * SCALE).mT).softmax(dim=3) @ v,
    "split scale": lambda q, k, v: ((q * 8**-0.25) @ (k * 8**-0.25).transpose(-2, -1)).softmax(-1) @ v,
    "dropout": lambda q, k, v: F.dropout((q @ k.permute(0, 1, 3, 2) * SCALE).softmax(-1), 0.1, False) @ v,
    "bmm": lambda q, k, v: torch.bmm(
        (torch.bmm(q.reshape(6, 5, 8), k.reshape(6, 5, 8).transpose(1, 2)) * SCALE).softmax(-1), v.reshape(6, 5, 8)
    ).view(2, 3, 5, 8),
}


@pytest.mark.parametrize("function", PLAIN.values(), ids=PLAIN.keys())
def test_every_spelling_is_one_attention_with_an_explicit_scale(function: Function) -> None:
    program, count, _ = fused(FuseAttention(), function, Q, K, V)
    a = bound_arguments(attention_of(program))
    assert count == 1 and a["scale"] == pytest.approx(SCALE, rel=1e-6)
    assert (a["attn_mask"], a["dropout_p"], a["is_causal"], a["enable_gqa"]) == (None, 0.0, False, False)


def test_no_scale_is_scale_one() -> None:
    program, _, _ = fused(FuseAttention(), lambda q, k, v: (q @ k.mT).softmax(-1) @ v, Q, K, V)
    assert bound_arguments(attention_of(program))["scale"] == 1.0


def test_a_scale_below_the_split_into_heads_is_found() -> None:
    program, count, _ = fused(FuseAttention(), lambda x: (heads(x * 0.3) @ heads(x).mT).softmax(-1) @ heads(x), X)
    assert count == 1 and bound_arguments(attention_of(program))["scale"] == 0.3 and "aten.mul.Tensor" not in operators(program)


def test_keys_that_are_stored_transposed_are_permuted_back() -> None:
    program, count, _ = fused(FuseAttention(), lambda q, kt, v: (q @ kt * SCALE).softmax(-1) @ v, Q, K.mT.contiguous(), V)
    assert count == 1 and operators(program) == ["aten.permute", "aten.scaled_dot_product_attention"]


def test_einsum_over_heads_in_the_third_axis() -> None:
    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) * 0.25
        return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v)

    program, count, _ = fused(FuseAttention(), function, *(normal(2, 5, 3, 8, seed=i) for i in range(3)))
    assert count == 1 and bound_arguments(attention_of(program))["scale"] == 0.25


def test_three_axes_get_a_fourth() -> None:
    program, count, _ = fused(FuseAttention(), lambda q, k, v: torch.bmm(torch.bmm(q, k.transpose(1, 2)).softmax(-1), v), X, X, X)
    assert count == 1 and attention_of(program).meta["val"].dim() == 4


MASKED: dict[str, tuple[Function, Tensor]] = {
    "additive [b, 1, 1, k]": (lambda q, k, v, m: (q @ k.mT * SCALE + m).softmax(-1) @ v, normal(2, 1, 1, 5)),
    "additive [q, k]": (lambda q, k, v, m: (m + q @ k.mT / math.sqrt(8)).softmax(-1) @ v, normal(5, 5)),
    "computed": (lambda q, k, v, m: (q @ k.mT * SCALE + (1 - m[:, None, None]) * -10000.0).softmax(-1) @ v, torch.ones(2, 5)),
    "T5: bias and no scale": (lambda q, k, v, m: F.softmax((q @ k.mT + m).float(), dim=-1).type_as(q) @ v, normal(1, 3, 5, 5)),
}


@pytest.mark.parametrize(("function", "mask"), MASKED.values(), ids=MASKED.keys())
def test_an_additive_mask_is_passed_on(function: Function, mask: Tensor) -> None:
    program, count, _ = fused(FuseAttention(), function, Q, K, V, mask)
    assert count == 1 and bound_arguments(attention_of(program))["attn_mask"] is not None


def test_two_masks_become_one() -> None:
    program, count, _ = fused(
        FuseAttention(), lambda q, k, v, m, b: (q @ k.mT + b + m).softmax(-1) @ v, Q, K, V, normal(2, 1, 1, 5), normal(1, 3, 5, 5)
    )
    assert count == 1 and operators(program)[0] == "aten.add.Tensor"
    attention_of(program)


FILLS = {"-inf": float("-inf"), "-1e9": -1e9, "smallest": torch.finfo(torch.float32).min}


@pytest.mark.parametrize("fill", FILLS.values(), ids=FILLS.keys())
@pytest.mark.parametrize("spelling", ["masked_fill of the hidden", "masked_fill of not visible", "where"])
def test_a_boolean_mask_becomes_a_float_one(spelling: str, fill: float) -> None:
    visible = torch.tensor([[1, 1, 0, 0, 1], [1, 0, 1, 1, 1]])[:, None, None].bool()
    fills: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "masked_fill of the hidden": lambda s, m: s.masked_fill(m == 0, fill),
        "masked_fill of not visible": lambda s, m: s.masked_fill(~m, fill),
        "where": lambda s, m: torch.where(m, s, torch.full([], fill)),
    }
    program, count, _ = fused(FuseAttention(), lambda q, k, v, m: fills[spelling](q @ k.mT * SCALE, m).softmax(-1) @ v, Q, K, V, visible)
    mask = bound_arguments(attention_of(program))["attn_mask"]
    assert count == 1 and mask.meta["val"].dtype == torch.float32


def test_a_row_that_is_masked_everywhere_keeps_its_uniform_average() -> None:
    hidden = torch.zeros(2, 1, 5, 5, dtype=torch.bool)
    hidden[:, :, 2] = True
    # scores of a hundred would show through a sum with -1e9, whose last bit is 64
    program, _, _ = fused(FuseAttention(), lambda q, k, v, m: (20 * q @ k.mT).masked_fill(m, -1e9).softmax(-1) @ v, Q, K, V, hidden)
    torch.testing.assert_close(program(Q, K, V, hidden)[0][:, :, 2], V.mean(2), atol=1e-6, rtol=0)


class Causal(torch.nn.Module):
    """Attention with its causal mask as a buffer."""

    visible: Tensor

    def __init__(self, apply: Callable[[Tensor, Tensor], Tensor], diagonal: int = 0) -> None:
        super().__init__()
        self.apply_mask = apply
        self.register_buffer("visible", torch.ones(5, 5).tril(diagonal).bool().view(1, 1, 5, 5))
        self.register_buffer("hidden", torch.full((5, 5), torch.finfo(torch.float32).min).triu(1 + diagonal))

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.apply_mask(q @ k.mT * SCALE, self).softmax(-1) @ v  # type: ignore[arg-type]


CAUSAL: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "GPT-2: where": lambda s, m: torch.where(m.visible[:, :, :5, :5], s, torch.full([], torch.finfo(s.dtype).min)),
    "nanoGPT: masked_fill": lambda s, m: s.masked_fill(~m.visible, float("-inf")),
    "Llama: additive": lambda s, m: s + m.hidden,
}


@pytest.mark.parametrize("mask", CAUSAL.values(), ids=CAUSAL.keys())
def test_a_constant_causal_mask_becomes_a_flag(mask: Callable[[Tensor, Any], Tensor]) -> None:
    program, count, _ = fused(FuseAttention(), Causal(mask), Q, K, V)
    a = bound_arguments(attention_of(program))
    assert count == 1 and a["is_causal"] and a["attn_mask"] is None and not program.weights()


@pytest.mark.parametrize("mask", CAUSAL.values(), ids=CAUSAL.keys())
def test_a_mask_that_shows_one_key_more_stays_a_mask(mask: Callable[[Tensor, Any], Tensor]) -> None:
    program, count, _ = fused(FuseAttention(), Causal(mask, diagonal=1), Q, K, V)
    a = bound_arguments(attention_of(program))
    assert count == 1 and not a["is_causal"] and a["attn_mask"] is not None


def expanded(k: Tensor) -> Tensor:
    """Hugging Face's repeat_kv, two key heads for six query heads."""
    b, h, s, d = k.shape
    return k[:, :, None, :, :].expand(b, h, 3, s, d).reshape(b, h * 3, s, d)


GROUPED: dict[str, Callable[[Tensor], Tensor]] = {"repeat_kv": expanded, "repeat_interleave": lambda k: k.repeat_interleave(3, dim=1)}
QG, KG, VG = normal(2, 6, 5, 8), normal(2, 2, 5, 8, seed=1), normal(2, 2, 5, 8, seed=2)


@pytest.mark.parametrize("repeat", GROUPED.values(), ids=GROUPED.keys())
def test_repeated_keys_become_grouped_queries(repeat: Callable[[Tensor], Tensor]) -> None:
    program, count, _ = fused(
        FuseAttention(),
        lambda q, k, v, m: (q @ repeat(k).transpose(2, 3) * SCALE + m).softmax(-1) @ repeat(v),
        QG,
        KG,
        VG,
        normal(2, 1, 5, 5),
    )
    assert count == 1 and operators(program) == ["aten.scaled_dot_product_attention"]
    assert bound_arguments(attention_of(program))["enable_gqa"]


def test_tiled_keys_are_another_order_and_stay() -> None:
    program, count, _ = fused(FuseAttention(), lambda q, k, v: (q @ k.repeat(1, 3, 1, 1).mT).softmax(-1) @ v.repeat(1, 3, 1, 1), QG, KG, VG)
    assert count == 1 and operators(program) == ["aten.repeat", "aten.repeat", "aten.scaled_dot_product_attention"]


def test_one_key_head_for_all_is_grouped() -> None:
    program, count, _ = fused(FuseAttention(), lambda q, k, v: (q @ k.mT).softmax(-1) @ v, Q, K[:, :1].clone(), V[:, :1].clone())
    assert count == 1 and bound_arguments(attention_of(program))["enable_gqa"]


def test_heads_folded_into_the_batch_with_a_mask_over_four_axes() -> None:
    def function(x: Tensor, m: Tensor) -> Tensor:
        q, k, v = (heads(t).contiguous().view(-1, 5, 8) for t in (x * SCALE, x, x))
        scores = (torch.bmm(q, k.transpose(1, 2)).view(2, 3, 5, 5) + m).view(6, 5, 5)
        return torch.bmm(scores.softmax(-1), v).view(2, 3, 5, 8).transpose(1, 2).reshape(2, 5, 24)

    program, count, _ = fused(FuseAttention(), function, X, normal(2, 1, 5, 5))
    assert count == 1 and attention_of(program).meta["val"].dim() == 4


WINDOWS = [normal(8, 3, 5, 8, seed=i) for i in range(3)]


def windows(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
    """Two images of four windows each."""
    scores = q * SCALE @ k.transpose(-2, -1) + bias.unsqueeze(0)
    scores = scores.view(2, 4, 3, 5, 5) + mask.unsqueeze(1).unsqueeze(0)
    return scores.view(-1, 3, 5, 5).softmax(-1) @ v


def test_shifted_windows_become_groups_of_heads() -> None:
    program, count, _ = fused(FuseAttention(), windows, *WINDOWS, normal(3, 5, 5), normal(4, 5, 5))
    assert count == 1 and attention_of(program).meta["val"].shape == (2, 12, 5, 8)


def test_a_mask_of_windows_that_hides_whole_keys_is_broadcast() -> None:
    program, count, _ = fused(FuseAttention(), windows, *WINDOWS, normal(3, 5, 5), normal(4, 1, 5))
    assert count == 1 and bound_arguments(attention_of(program))["attn_mask"].meta["val"].shape == (1, 12, 5, 5)


def test_windows_that_share_a_bias_or_keys_are_left_alone_with_the_reason() -> None:
    q, k, v = WINDOWS
    _, count, context = fused(FuseAttention(), windows, q, k, v, normal(1, 5, 5), normal(4, 5, 5))
    assert count == 0 and reasons(context) == ["the bias has shape [1, 1, 5, 5], want [heads, queries, keys]"]
    _, count, context = fused(FuseAttention(), windows, q, k[:, :1].clone(), v, normal(3, 5, 5), normal(4, 5, 5))
    assert count == 0 and reasons(context) == [
        "queries [8, 3, 5, 8], keys [8, 1, 5, 8] and values [8, 3, 5, 8] differ in their leading axes"
    ]


LEFT_ALONE: dict[str, tuple[Callable[..., Any], str]] = {
    "softmax over the queries": (lambda q, k, v: (q @ k.mT).softmax(-2) @ v, "softmax has axis -2, want -1"),
    "a soft mask": (
        lambda q, k, v: (q @ k.mT).masked_fill(q[..., :5] > 0, -100.0).softmax(-1) @ v,
        "masked scores are set to -100, want -10000 or less",
    ),
    "weights returned": (
        lambda q, k, v: ((w := (q @ k.mT).softmax(-1)) @ v, w),
        "%softmax is used outside the pattern by %output",
    ),
}


@pytest.mark.parametrize(("function", "reason"), LEFT_ALONE.values(), ids=LEFT_ALONE.keys())
def test_another_computation_is_left_alone_with_the_reason(function: Callable[..., Any], reason: str) -> None:
    _, count, context = fused(FuseAttention(), function, Q, K, V)
    assert count == 0 and reasons(context) == [reason]


OTHER: dict[str, Function] = {
    "a function between": lambda q, k, v: (q @ k.mT).tanh().softmax(-1) @ v,
    "values on the left": lambda q, k, v: v.mT @ (q @ k.mT).softmax(-1),
    "a product without softmax": lambda q, k, v: (q @ k.mT) @ v,
}


@pytest.mark.parametrize("function", OTHER.values(), ids=OTHER.keys())
def test_other_products_are_left_alone(function: Function) -> None:
    _, count, _ = fused(FuseAttention(), function, Q, K, V)
    assert count == 0


DIMS = {"x": {0: Dim("batch", 1, 8), 1: Dim("seq", 2, 64)}, "m": {0: Dim("batch", 1, 8), 1: Dim("seq", 2, 64)}}


def test_it_fuses_with_dynamic_sizes() -> None:
    def function(x: Tensor, m: Tensor) -> Tensor:
        b, s, _ = x.shape
        q, k, v = (t.view(b, s, 3, 8).transpose(1, 2) for t in (x * SCALE, x, x))
        return ((q @ k.transpose(-1, -2) + m[:, None, None]).softmax(-1) @ v).transpose(1, 2).reshape(b, s, 24)

    program, count, _ = fused(FuseAttention(), function, X, normal(2, 5), dims=DIMS)
    assert count == 1 and bound_arguments(attention_of(program))["scale"] == pytest.approx(SCALE)
    x, m = normal(3, 9, 24), normal(3, 9)
    torch.testing.assert_close(program(x, m)[0], function(x, m), atol=1e-5, rtol=1e-5)  # one reassociation of 8 terms


def test_grouped_queries_fuse_with_dynamic_sizes() -> None:
    def function(x: Tensor, m: Tensor) -> Tensor:
        b, s, _ = x.shape
        q, k = x.view(b, s, 6, 4).transpose(1, 2), x[..., :8].reshape(b, s, 2, 4).transpose(1, 2)
        k = k[:, :, None].expand(b, 2, 3, s, 4).reshape(b, 6, s, 4)
        return (q @ k.transpose(2, 3) * 0.5 + m[:, None, None]).softmax(-1) @ k

    program, count, _ = fused(FuseAttention(), function, X, normal(2, 5), dims=DIMS)
    assert count == 1 and bound_arguments(attention_of(program))["enable_gqa"]
    assert program(normal(3, 9, 24), normal(3, 9))[0].shape == (3, 6, 9, 4)


def test_folded_heads_fuse_with_a_dynamic_batch_and_sequence() -> None:
    """Batch times heads is a symbolic size on both sides: whether they differ must not be asked of the symbols."""

    def function(x: Tensor, m: Tensor) -> Tensor:
        q, k, v = (heads(t).flatten(0, 1) for t in (x, x, x))
        mask = m[:, None, None].expand(x.shape[0], 3, x.shape[1], x.shape[1]).flatten(0, 1)
        return torch.bmm(torch.baddbmm(mask, q, k.mT, alpha=SCALE).softmax(-1), v)

    program, count, _ = fused(FuseAttention(), function, X, normal(2, 5), dims=DIMS)
    assert count == 1 and bound_arguments(attention_of(program))["enable_gqa"] is False
    x, m = normal(3, 9, 24), normal(3, 9)
    torch.testing.assert_close(program(x, m)[0], function(x, m), atol=1e-5, rtol=1e-5)  # one reassociation of 8 terms


def test_one_key_head_is_grouped_with_a_dynamic_batch() -> None:
    dims = {"q": {0: Dim("batch", 1, 8)}, "k": {0: Dim("batch", 1, 8)}}
    program, count, _ = fused(FuseAttention(), lambda q, k: (q @ k.mT).softmax(-1) @ k, Q, K[:, :1].clone(), dims=dims)
    assert count == 1 and bound_arguments(attention_of(program))["enable_gqa"] is True


def test_a_dynamic_number_of_query_heads_is_left_alone_with_the_reason() -> None:
    _, count, context = fused(
        FuseAttention(), lambda q, k: (q @ k.mT).softmax(-1) @ k, Q, K[:, :1].clone(), dims={"q": {1: Dim("heads", 2, 6)}}
    )
    (reason,) = reasons(context)
    assert count == 0 and reason.endswith("query heads do not divide among 1 key heads")
