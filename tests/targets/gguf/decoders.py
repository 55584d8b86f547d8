"""Language models written by hand, with names that say nothing: every way to spell a transformer that people use."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Spelling:
    """How a decoder is written. The sizes of each layer are its own, for pruned models: `heads`, `kv_heads` and `ffn` by layer."""

    vocabulary: int = 97
    width: int = 48
    heads: tuple[int, ...] = (6, 6)
    kv_heads: tuple[int, ...] = (2, 2)
    head: int = 8
    ffn: tuple[int, ...] = (80, 80)
    norm: str = "rms"
    norm_bias: bool = True
    bias: bool = False
    qkv_bias: bool = False
    fused: bool = False
    head_major: bool = False  # fused rows stand head by head: q, k, v of the first head first
    rope: str = "halves"  # halves, pairs, complex, ""
    rope_width: int = 0
    base: float = 10000.0
    stretch: float = 1.0
    bend: float = 0.0  # frequencies that are no geometric series
    positions: int = 0
    alibi: bool = False
    gqa: str = "repeat"  # repeat, expand, flag, strided
    attention: str = "sdpa"  # sdpa, matmul, mask
    scale: float = 0.0
    query_scale: bool = False
    activation: str = "silu"
    gated: bool = True
    fused_gate: bool = False
    query_norm: bool = False
    parallel: str = ""  # "", one, two
    tied: bool = False
    head_bias: bool = False
    missing: tuple[str, ...] = ()  # attention1: layer 1 has no attention


class RMS(nn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.rand(n) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.g * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


def _norm(s: Spelling, n: int) -> nn.Module:
    if s.norm == "rms":
        return RMS(n)
    made = nn.LayerNorm(n, bias=s.norm_bias)
    nn.init.uniform_(made.weight, 0.5, 1.5)
    if s.norm_bias:
        nn.init.normal_(made.bias, std=0.1)
    return made


def _linear(i: int, o: int, bias: bool) -> nn.Linear:
    made = nn.Linear(i, o, bias=bias)
    nn.init.normal_(made.weight, std=1.2 / math.sqrt(i))
    if bias:
        nn.init.normal_(made.bias, std=0.1)
    return made


def _activation(s: Spelling, x: torch.Tensor) -> torch.Tensor:
    if s.activation == "silu":
        return x * torch.sigmoid(x)
    if s.activation == "gelu":
        return F.gelu(x)
    if s.activation == "gelu_tanh":
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return F.relu(x)


def _angles(s: Spelling, n: int) -> torch.Tensor:
    width = s.rope_width or s.head
    k = torch.arange(0, width, 2).float() / width
    frequencies = 1.0 / (s.base**k) / s.stretch / (1 + s.bend * k)
    return torch.outer(torch.arange(n).float(), frequencies)


def _turn(s: Spelling, x: torch.Tensor) -> torch.Tensor:
    """x [batch, heads, n, head]."""
    if not s.rope:
        return x
    width = s.rope_width or s.head
    a, rest = _angles(s, x.shape[2]), x[..., width:]
    x = x[..., :width]
    if s.rope == "complex":
        z = torch.polar(torch.ones_like(a), a)
        whole = torch.view_as_real(torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2)) * z).flatten(-2)
    elif s.rope == "pairs":
        u, v = x[..., 0::2], x[..., 1::2]
        cos, sin = a.cos().to(x.dtype), a.sin().to(x.dtype)
        whole = torch.stack([u * cos - v * sin, u * sin + v * cos], -1).flatten(-2)
    else:
        u, v = x.chunk(2, -1)
        cos, sin = (f(torch.cat([a, a], -1)).to(x.dtype) for f in (torch.cos, torch.sin))
        whole = x * cos + torch.cat([-v, u], -1) * sin
    return torch.cat([whole, rest], -1) if rest.shape[-1] else whole


class Mix(nn.Module):
    def __init__(self, s: Spelling, layer: int) -> None:
        super().__init__()
        self.s, self.h, self.kv = s, s.heads[layer], s.kv_heads[layer]
        bias = s.bias or s.qkv_bias
        if s.fused:
            self.a = _linear(s.width, (self.h + 2 * self.kv) * s.head, bias)
        else:
            self.b, self.c, self.d = (_linear(s.width, n * s.head, bias) for n in (self.h, self.kv, self.kv))
        self.e = _linear(self.h * s.head, s.width, s.bias)
        if s.query_norm:
            self.f, self.g = RMS(s.head), RMS(s.head)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        s, (b, n, _) = self.s, x.shape
        if s.fused and s.head_major:
            q, k, v = self.a(x).view(b, n, self.h, 3, s.head).permute(3, 0, 2, 1, 4)
        elif s.fused:
            parts = self.a(x).split([self.h * s.head, self.kv * s.head, self.kv * s.head], -1)
            q, k, v = (t.view(b, n, -1, s.head).transpose(1, 2) for t in parts)
        else:
            q, k, v = (m(x).view(b, n, -1, s.head).transpose(1, 2) for m in (self.b, self.c, self.d))
        if s.query_norm:
            q, k = self.f(q), self.g(k)
        q, k = _turn(s, q), _turn(s, k)
        scale = s.scale or 1 / math.sqrt(s.head)
        if s.query_scale:
            q, scale = q * scale, 1.0
        return self.e(self._attend(q, k, v, scale).transpose(1, 2).reshape(b, n, -1))

    def _attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
        s, n, groups = self.s, q.shape[2], self.h // self.kv
        if groups > 1 and s.gqa == "strided":
            k, v = k.repeat(1, groups, 1, 1), v.repeat(1, groups, 1, 1)
        elif groups > 1 and s.gqa == "expand":
            k, v = (t[:, :, None].expand(-1, -1, groups, -1, -1).flatten(1, 2) for t in (k, v))
        elif groups > 1 and s.gqa == "repeat":
            k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        lower = torch.ones(n, n, dtype=torch.bool).tril()
        if s.alibi:
            slopes = torch.tensor([2 ** (-8 * (h + 1) / self.h) for h in range(self.h)])
            distance = (torch.arange(n)[None] - torch.arange(n)[:, None]).float()
            bias = (slopes[:, None, None] * distance).masked_fill(~lower, -torch.inf)
            return F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None], scale=scale)
        if s.attention == "matmul":
            scores = (q @ k.transpose(-1, -2)) * scale
            return torch.softmax(scores.masked_fill(~lower, -1e9), -1) @ v
        if s.attention == "mask":
            return F.scaled_dot_product_attention(q, k, v, attn_mask=lower, scale=scale)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=s.gqa == "flag" and groups > 1)


class Wide(nn.Module):
    def __init__(self, s: Spelling, layer: int) -> None:
        super().__init__()
        self.s, n = s, s.ffn[layer]
        self.a = _linear(s.width, 2 * n if s.fused_gate else n, s.bias)
        if s.gated and not s.fused_gate:
            self.b = _linear(s.width, n, s.bias)
        self.c = _linear(n, s.width, s.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.s.fused_gate:
            u, v = self.a(x).chunk(2, -1)
            return self.c(v * _activation(self.s, u))
        h = _activation(self.s, self.a(x))
        return self.c(h * self.b(x) if self.s.gated else h)


class Step(nn.Module):
    def __init__(self, s: Spelling, layer: int) -> None:
        super().__init__()
        self.s = s
        self.m = None if f"attention{layer}" in s.missing else Mix(s, layer)
        self.w = None if f"network{layer}" in s.missing else Wide(s, layer)
        self.n, self.o = _norm(s, s.width), _norm(s, s.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.s.parallel == "one":
            y = self.n(x)
            return x + self.m(y) + self.w(y)
        if self.s.parallel == "two":
            return self.w(self.o(x)) + self.m(self.n(x)) + x
        x = x + self.m(self.n(x)) if self.m is not None else x
        return x + self.w(self.o(x)) if self.w is not None else x


class Decoder(nn.Module):
    def __init__(self, s: Spelling) -> None:
        super().__init__()
        self.s = s
        self.p = nn.Embedding(s.vocabulary, s.width)
        if s.positions:
            self.r = nn.Embedding(s.positions, s.width)
        self.t = nn.ModuleList(Step(s, i) for i in range(len(s.ffn)))
        self.y = _norm(s, s.width)
        self.z = nn.Linear(s.width, s.vocabulary, bias=s.head_bias)
        if s.tied:
            self.z.weight = self.p.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.p(ids)
        if self.s.positions:
            x = x + self.r(torch.arange(ids.shape[1]))
        for step in self.t:
            x = step(x)
        return self.z(self.y(x))


def decoder(s: Spelling, seed: int = 0) -> Decoder:
    torch.manual_seed(seed)
    return Decoder(s).eval()


_GPT: dict[str, Any] = {"norm": "layer", "activation": "gelu_tanh", "gated": False, "rope": "", "kv_heads": (6, 6)}
_LAYER_ROPE: dict[str, Any] = {"norm": "layer", "activation": "gelu_tanh", "gated": False}

#: Name: spelling, and the architecture that it is written as.
DECODERS: dict[str, tuple[Spelling, str]] = {
    "fused": (Spelling(fused=True), "llama"),
    "head_major": (Spelling(fused=True, head_major=True, kv_heads=(6, 6), rope="pairs"), "llama"),
    "interleaved": (Spelling(rope="pairs", gqa="expand"), "llama"),
    "complex": (Spelling(rope="complex", base=500000.0), "llama"),
    "flag": (Spelling(gqa="flag", tied=True), "llama"),
    "strided": (Spelling(gqa="strided"), "llama"),
    "matmul": (Spelling(attention="matmul", fused_gate=True), "llama"),
    "mask": (Spelling(attention="mask", query_scale=True), "llama"),
    "scaled": (Spelling(scale=0.2), "llama"),
    "partial": (Spelling(rope_width=4), "llama"),
    "nope": (Spelling(rope=""), "llama"),
    "bent": (Spelling(bend=3.0), "llama"),
    "stretched": (Spelling(stretch=4.0), "llama"),
    "biased": (Spelling(bias=True), "llama"),
    "odd_heads": (Spelling(head=10, heads=(3, 3), kv_heads=(1, 1)), "llama"),
    "qwen2": (Spelling(qkv_bias=True), "qwen2"),
    "qwen2_pairs": (Spelling(qkv_bias=True, rope="pairs"), "qwen2"),
    "qwen3": (Spelling(query_norm=True, head=12), "qwen3"),
    "qwen3_scaled": (Spelling(query_norm=True, rope="pairs", scale=0.3, tied=True), "qwen3"),
    "pruned": (Spelling(heads=(6, 4), kv_heads=(2, 1), ffn=(80, 33)), "deci"),
    "no_network": (Spelling(ffn=(80, 80, 80), heads=(6, 6, 6), kv_heads=(2, 2, 2), missing=("attention1",)), "deci"),
    "gpt": (Spelling(**_GPT, bias=True, positions=64), "gpt2"),
    "gpt_without_bias": (Spelling(**_GPT, norm_bias=False, positions=64, fused=True), "mpt"),
    "alibi": (Spelling(**{**_GPT, "heads": (4, 4), "kv_heads": (4, 4), "head": 12}, alibi=True, norm_bias=False), "mpt"),
    "rope_gelu": (Spelling(**_LAYER_ROPE, bias=True), "starcoder2"),
    "rope_gelu_pruned": (Spelling(**_LAYER_ROPE, heads=(6, 3), kv_heads=(2, 1), ffn=(80, 17)), "starcoder2"),
    "parallel_one": (Spelling(**_LAYER_ROPE, bias=True, parallel="one", rope_width=4, head_bias=True), "phi2"),
    "parallel_two": (Spelling(**_LAYER_ROPE, bias=True, parallel="two", rope_width=4, kv_heads=(6, 6), tied=True), "gptneox"),
    "layer_swiglu": (Spelling(norm="layer", rope_width=4), "stablelm"),
}
