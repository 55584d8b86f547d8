"""One lowered program at several sizes of its dynamic dimensions, against PyTorch eager."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgecc.ir.capture import from_exported
from edgecc.ir.signature import Dim
from tests.targets.lowering_host import check, close, compiled

pytest.importorskip("tvm")
pytestmark = pytest.mark.slow  # each compiles dozens of kernels

BATCH, SEQ = Dim("batch", 1, 8), Dim("seq", 1, 16)
BOTH = {0: BATCH, 1: SEQ}
SIZES = [(1, 1), (1, 7), (3, 16), (8, 5)]


def _inputs(batch: int, seq: int, *rest: int) -> tuple[torch.Tensor, ...]:
    return (torch.randn(batch, seq, *rest, generator=torch.Generator().manual_seed(batch * 100 + seq)),)


def test_a_transformer_encoder_serves_every_batch_and_length() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, 0.0, "gelu", batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    check(model, _inputs(2, 6, 16), *(_inputs(b, s, 16) for b, s in SIZES), dims={"src": BOTH}, tolerance=5e-6)


class _Embedded(nn.Module):
    """Token and position embeddings, a causal and a padding mask, and a head that shares the embedding's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(30, 16), nn.Embedding(16, 16)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        batch, seq = ids.shape
        x = self.tokens(ids) + self.positions(torch.arange(seq))
        heads = x.view(batch, seq, 2, 8).transpose(1, 2)
        allowed = torch.ones(seq, seq, dtype=torch.bool).tril() & mask[:, None, None, :].bool()
        y = F.scaled_dot_product_attention(heads, heads, heads, allowed)
        return F.linear(y.transpose(1, 2).reshape(batch, seq, 16), self.tokens.weight)


def test_masks_positions_and_a_tied_head_follow_the_length() -> None:
    def given(batch: int, seq: int) -> tuple[torch.Tensor, ...]:
        mask = torch.ones(batch, seq, dtype=torch.int64)
        mask[-1, seq // 2 :] = 0  # for a length of 1 no key is left, and the row gives zeros
        return torch.randint(0, 30, (batch, seq), generator=torch.Generator().manual_seed(seq)), mask

    torch.manual_seed(0)
    dims = {"ids": BOTH, "mask": BOTH}
    check(_Embedded().eval(), given(2, 6), *(given(b, s) for b, s in SIZES), dims=dims)


def _shapes(x: torch.Tensor) -> Any:
    batch, seq, width = x.shape
    return (
        x.reshape(batch * seq, width),
        x.flatten(1),
        x[:, -1],
        torch.cat([x, x[:, :1]], 1) + torch.cat([x[:, -1:], x], 1),
        x.mean(1),
        x.var(1, correction=0),
        x.softmax(1),
        x.sum((0, 1)) / seq,
        x * seq**-0.5,
        F.pad(x, (0, 0, 2, 1)),
        F.pad(x, (1, 0, 1, 0), "replicate"),
        x.flip(1),
        x.roll(1, 1),
        x.cumsum(1),
        x.repeat(1, 2, 1),
        x.repeat_interleave(2, 1),
        x.transpose(0, 1).unsqueeze(0).expand(2, seq, batch, width),
        torch.arange(seq, 0, -1) * 2 + torch.arange(0, 2 * seq, 2),
        torch.zeros(batch, seq).masked_fill(torch.ones(seq, dtype=torch.bool), 3.0),
        torch.full((seq, seq), -1e9).triu(1),
        x.argmax(1),
        x.max(1).values,
        x.amax((0, 1)),
        x @ x.transpose(1, 2),
        F.layer_norm(x, (width,)),
        x.split([1, 3], 2)[1],
        x.sort(1).values,
        x.gather(1, torch.zeros(batch, seq, 1, dtype=torch.int64)),
        x[:, torch.arange(seq) // 2],
        F.one_hot(torch.arange(seq) % 3, 4),
        torch.minimum(x, x.mean()),
    )


def test_operators_on_shapes_follow_the_sizes() -> None:
    check(_shapes, _inputs(2, 6, 4), *(_inputs(b, s, 4) for b, s in SIZES), dims={"x": BOTH})


def test_slices_follow_the_sizes() -> None:
    def slices(x: torch.Tensor) -> Any:
        seq = x.shape[1]
        return x[:, seq - 3], x[:, 1:-1], x[:, -3:], x[:, : seq - 2], *x[:, :4].chunk(2, 1)

    dims = {"x": {0: BATCH, 1: Dim("seq", 6, 16)}}
    check(slices, _inputs(2, 8, 4), *(_inputs(b, s, 4) for b, s in ((1, 6), (3, 16), (8, 7))), dims=dims)


def _image(x: torch.Tensor) -> Any:
    return (
        F.conv2d(x, torch.ones(2, 3, 3, 3) * 0.1, padding=1),
        F.conv_transpose2d(x, torch.ones(3, 2, 2, 2) * 0.1, stride=2),
        F.max_pool2d(x, 2),
        F.avg_pool2d(x, 3, 1, 1, count_include_pad=False),
        F.adaptive_avg_pool2d(x, 1),
        F.adaptive_avg_pool2d(x, (2, 3)),
        F.adaptive_max_pool2d(x, 2),
        F.interpolate(x, scale_factor=2),
        F.interpolate(x, scale_factor=2, mode="bilinear"),
        F.interpolate(x, scale_factor=1.5, mode="bilinear", align_corners=True),
        F.interpolate(x, size=(5, 4), mode="bicubic"),
        F.group_norm(x, 3),
        F.instance_norm(x),
        F.unfold(x, 3, padding=1, stride=2),
        F.pixel_shuffle(F.pad(x, (0, 0, 0, 0, 0, 1)), 2),
    )


def test_operators_on_images_follow_the_sizes() -> None:
    height, width = Dim("height", 4, 24), Dim("width", 4, 24)
    others = [_inputs(n, 3, h, w) for n, h, w in ((1, 4, 4), (3, 7, 12), (2, 24, 9))]
    # 1e-5: instance norm over 16 elements of a plane divides by deviations well below one
    check(_image, _inputs(2, 3, 10, 8), *others, dims={"x": {0: BATCH, 2: height, 3: width}}, tolerance=1e-5)


def test_a_size_that_is_a_multiple_defines_its_symbol() -> None:
    """The input's size is `2*n`, and no other input has the size n."""

    def halves(x: torch.Tensor) -> torch.Tensor:
        return x.view(-1, 2, 3).sum(1)

    half = torch.export.Dim("half", min=1, max=8)
    module = nn.Module()
    module.forward = halves  # type: ignore[assignment]
    program = from_exported(torch.export.export(module, (torch.randn(6, 3),), dynamic_shapes={"x": {0: 2 * half}}))
    run = compiled(program)
    for rows in (2, 6, 16):
        (x,) = _inputs(rows, 3)
        close(run(x)[0], x.view(-1, 2, 3).sum(1))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_serve_every_batch(kind: Any) -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = kind(4, 6, 2, batch_first=True, bidirectional=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.layer(x)[0][:, -1]
            return result

    torch.manual_seed(0)
    check(Last(), _inputs(2, 9, 4), _inputs(1, 9, 4), _inputs(8, 9, 4), dims={"x": {0: BATCH}})
