"""Spellings that are the same model as others: PyTorch's own layers, tables as parameters, exchanged axes, constants that multiply."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.targets.gguf.decoders import DECODERS, Spelling, decoder
from tests.targets.gguf.mutations import mutated
from tests.targets.gguf.parity_host import agrees, ids, lowered, parity, plan_of


class Layers(nn.Module):
    """A decoder of nn.TransformerEncoderLayer, whose attention has tokens first inside."""

    def __init__(self, batch_first):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Embedding(97, 48), nn.Embedding(64, 48)
        layer = nn.TransformerEncoderLayer(48, 6, 80, dropout=0.0, activation=nn.GELU("tanh"), batch_first=batch_first, norm_first=True)
        self.c = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(48), enable_nested_tensor=False)
        self.d = nn.Linear(48, 97, bias=False)
        self.batch_first = batch_first

    def forward(self, ids):
        n = ids.shape[1]
        x = self.a(ids) + self.b(torch.arange(n))
        mask = nn.Transformer.generate_square_subsequent_mask(n)
        if self.batch_first:
            return self.d(self.c(x, mask=mask, is_causal=True))
        return self.d(self.c(x.transpose(0, 1), mask=mask, is_causal=True)).transpose(0, 1)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("batch_first", [True, False])
def test_layers_of_pytorch_are_gpt2(batch_first, batch):
    found = parity(Layers(batch_first).eval(), ids(batch=batch))
    assert found.architecture == "gpt2"
    assert agrees(found), (found.error, found.agreement)


class Sliced(nn.Module):
    """Positions are a parameter that is cut to length."""

    def __init__(self, *shape):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Embedding(97, 48), nn.Parameter(torch.randn(*shape, 64, 48))
        self.c = decoder(DECODERS["gpt"][0])

    def forward(self, ids):
        x = self.a(ids) + self.b[..., : ids.shape[1], :]
        for step in self.c.t:
            x = step(x)
        return self.c.z(self.c.y(x))


def test_positions_may_be_a_parameter():
    found = parity(Sliced().eval(), ids(batch=2))
    assert found.architecture == "gpt2"
    assert agrees(found), (found.error, found.agreement)


@pytest.mark.parametrize(
    "name",
    [
        "half the attention's result",
        "channels of a result scaled",
        "half the stream",
        "scaled norm",
        "scaled logits",
        "scaled embeddings",
        "what is gated halved",
        "keys of heads scaled",
        "values of heads scaled",
        "heads in another order",
        "keys in another order",
        "dimensions of values reversed",
        "another scale",
        "causal with an offset",
        "shared layers",
    ],
)
@pytest.mark.parametrize("tied", [False, True])
def test_factors_and_orders_are_part_of_the_weights(name, tied):
    groups = {"kv_heads": (6, 6)} if name in ("keys of heads scaled", "values of heads scaled") else {}
    found = parity(mutated(Spelling(tied=tied, **groups), name), ids())
    assert found.architecture == "llama"
    assert agrees(found), (found.error, found.agreement)


class Gemma(nn.Module):
    """Rows multiplied by the root of the width, norms by one more than their weight, GELU by tanh that gates."""

    def __init__(self, scale):
        super().__init__()
        self.a, self.scale = decoder(Spelling(activation="gelu_tanh", head=12, tied=True)), scale

    def forward(self, ids):
        x = self.a.p(ids) * self.scale
        for step in self.a.t:
            x = step(x)
        return self.a.z(F.rms_norm(x, (48,), 1 + self.a.y.g, 1e-6))


def test_the_root_of_the_width_and_a_tied_head_are_gemma():
    found = parity(Gemma(48**0.5).eval(), ids())
    assert found.architecture == "gemma"
    assert agrees(found), (found.error, found.agreement)


def test_another_factor_is_not_gemma():
    from edgecc.errors import UnsupportedError

    with pytest.raises(UnsupportedError, match=r"gemma: %embedding: the rows of tokens are multiplied by 5, want 6.9"):
        plan_of(lowered(Gemma(5.0).eval(), ids()))


def test_tokens_in_order_are_tokens():
    """An example that counts is no table of positions where it is the only input."""
    assert plan_of(lowered(decoder(Spelling()), torch.arange(12)[None])).architecture.name == "llama"
