"""One ONNX file at several sizes of its dynamic dimensions, against PyTorch eager; and how little it computes for them."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgecc.ir.signature import Dim
from edgecc.targets.onnx_common.lowering import lower
from edgecc.testing import trace_function
from tests.targets import test_lowering_dynamic as families
from tests.targets.onnx.onnx_host import check, compiled

BATCH, SEQ = Dim("batch", 1, 8), Dim("seq", 1, 16)
BOTH = {"x": {0: BATCH, 1: SEQ}}
CLAIMS = (
    families.test_a_transformer_encoder_serves_every_batch_and_length,
    families.test_masks_positions_and_a_tied_head_follow_the_length,
    families.test_operators_on_shapes_follow_the_sizes,
    families.test_slices_follow_the_sizes,
    families.test_a_size_that_is_a_multiple_defines_its_symbol,
)


@pytest.mark.slow
@pytest.mark.parametrize("claim", CLAIMS, ids=lambda f: f.__name__.removeprefix("test_"))
def test_a_claim_of_the_other_lowering_holds_for_onnx(claim, monkeypatch):
    monkeypatch.setattr(families, "check", check)
    monkeypatch.setattr(families, "compiled", compiled)
    claim()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_serve_every_batch(kind, monkeypatch):
    monkeypatch.setattr(families, "check", check)
    families.test_recurrent_layers_serve_every_batch(kind)


def test_operators_on_images_follow_the_sizes():
    def image(x):
        return (
            F.conv2d(x, torch.ones(2, 3, 3, 3) * 0.1, padding=1),
            F.max_pool2d(x, 2),
            F.avg_pool2d(x, 3, 1, 1, count_include_pad=False),
            F.adaptive_avg_pool2d(x, 1),
            F.interpolate(x, scale_factor=2),
            F.interpolate(x, scale_factor=1.5, mode="bilinear", align_corners=True),
            F.interpolate(x, size=(5, 4), mode="bicubic"),
            F.group_norm(x, 3),
            F.pad(x, (1, 2, 0, 1), "reflect"),
        )

    dims = {"x": {0: BATCH, 2: Dim("height", 4, 24), 3: Dim("width", 4, 24)}}
    sizes = [(2, 10, 8), (1, 4, 4), (3, 7, 12), (8, 24, 9)]
    inputs = [(torch.randn(n, 3, h, w, generator=torch.Generator().manual_seed(h)),) for n, h, w in sizes]
    check(image, *inputs, dims=dims, tolerance=1e-5)  # 1e-5: a group of 16 elements divides by its deviation


def _kinds(function, *inputs, dims):
    return Counter(node.op_type for node in lower(trace_function(function, *inputs, dims=dims), 20).graph)


def test_a_shape_with_one_unknown_size_is_a_constant():
    def heads(x):
        batch, seq, width = x.shape
        return x.view(batch, seq, 2, width // 2).transpose(1, 2).reshape(batch, 2, seq, width // 2).flatten(2), x.flatten(0, 1)

    kinds = _kinds(heads, torch.randn(2, 6, 4), dims=BOTH)
    assert kinds["Shape"] == kinds["Concat"] == 0
    check(heads, (torch.randn(2, 6, 4),), (torch.randn(1, 3, 4),), dims=BOTH)


def test_a_shape_of_two_unknown_sizes_computes_one_of_them():
    def apart(x):
        batch, seq, width = x.shape
        return (x.reshape(batch * seq, width) * 2).view(batch, seq, width)

    kinds = _kinds(apart, torch.randn(2, 6, 4), dims=BOTH)
    assert (kinds["Shape"], kinds["Concat"], kinds["Reshape"]) == (1, 1, 2)
    check(apart, (torch.randn(2, 6, 4),), (torch.randn(5, 1, 4),), dims=BOTH)


def test_an_expansion_that_its_users_broadcast_is_left_out():
    def masked(x, m):
        wide = m[:, None].expand(x.shape[0], x.shape[1], 4)
        return x + wide, torch.where(x > 0, x, wide)

    dims = {"x": {0: BATCH, 1: SEQ}, "m": {0: BATCH}}
    assert _kinds(masked, torch.randn(2, 6, 4), torch.randn(2, 4), dims=dims)["Expand"] == 0
    check(masked, (torch.randn(2, 6, 4), torch.randn(2, 4)), (torch.randn(3, 1, 4), torch.randn(3, 4)), dims=dims)


def test_a_number_below_zero_made_of_sizes_is_divided_rounding_down():
    def shifted(x):
        return x + (x.shape[1] - 3) // 2

    check(shifted, *((torch.ones(2, seq, 4),) for seq in (6, 1, 2, 3)), dims=BOTH)
