"""Encoders written by hand: norms after the sums, as in BERT."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from tests.targets.gguf.decoders import Mix, Spelling, Wide, _norm


@dataclass(frozen=True)
class Encoding:
    """`types`: rows of a table of token types, 0 for none; `masked`: it takes a mask of the tokens to see."""

    layer: Spelling
    positions: int = 64
    types: int = 2
    masked: bool = False


class _Seeing(Mix):
    """Every token sees every other."""

    mask: torch.Tensor | None = None

    def _attend(self, q, k, v, scale):
        return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=self.mask, scale=scale)


class _Step(nn.Module):
    def __init__(self, s: Spelling, layer: int) -> None:
        super().__init__()
        self.m, self.w, self.n, self.o = _Seeing(s, layer), Wide(s, layer), _norm(s, s.width), _norm(s, s.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.n(x + self.m(x))
        return self.o(x + self.w(x))


class Encoder(nn.Module):
    def __init__(self, e: Encoding) -> None:
        super().__init__()
        self.e, s = e, e.layer
        self.a = nn.Embedding(s.vocabulary, s.width)
        if e.positions:
            self.b = nn.Embedding(e.positions, s.width)
        if e.types:
            self.c = nn.Embedding(e.types, s.width)
        self.d = _norm(s, s.width)
        self.f = nn.ModuleList(_Step(s, i) for i in range(len(s.ffn)))

    def forward(self, ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        x = self.a(ids)
        if self.e.positions:
            x = x + self.b(torch.arange(ids.shape[1]))
        if self.e.types:
            x = x + self.c(torch.zeros_like(ids))
        x = self.d(x)
        for step in self.f:
            step.m.mask = None if mask is None else (mask != 0)[:, None, None, :]
            x = step(x)
        return x


_BERT = Spelling(norm="layer", activation="gelu_tanh", gated=False, rope="", bias=True, kv_heads=(6, 6))
_NOMIC = Spelling(norm="layer", rope="halves", kv_heads=(6, 6), fused=True)

#: Name: how it is written, and the architecture that it is written as.
ENCODERS: dict[str, tuple[Encoding, str]] = {
    "bert": (Encoding(_BERT), "bert"),
    "without types": (Encoding(_BERT, types=0), "bert"),
    "masked": (Encoding(_BERT, masked=True), "bert"),
    "without biases": (Encoding(replace(_BERT, bias=False, norm_bias=False, fused=True)), "bert"),
    "pruned": (Encoding(replace(_BERT, heads=(5, 2), kv_heads=(5, 2), ffn=(80, 33))), "bert"),
    "turned": (Encoding(_NOMIC, positions=0), "nomic-bert"),
    "turned in pairs": (Encoding(replace(_NOMIC, rope="pairs", base=1000.0), positions=0, types=0), "nomic-bert"),
}


def encoder(e: Encoding, seed: int = 0) -> Encoder:
    torch.manual_seed(seed)
    return Encoder(e).eval()
