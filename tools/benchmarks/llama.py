"""Llama 3.2 1B but for its vocabulary, by hand: its memory is that of torch and of its weights, without transformers."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

WIDTH, INNER, LAYERS, HEADS, SHARED, VOCABULARY = 2048, 8192, 16, 32, 8, 32000
SIZE = WIDTH // HEADS


class Attention(nn.Module):
    """32 heads of queries, 8 of keys and values, rotary positions."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.o = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(2))
        self.k, self.v = (nn.Linear(WIDTH, SHARED * SIZE, bias=False) for _ in range(2))

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        q, k, v = (f(x).unflatten(-1, (-1, SIZE)).transpose(1, 2) for f in (self.q, self.k, self.v))
        q, k = (t * cos + torch.cat((-t[..., SIZE // 2 :], t[..., : SIZE // 2]), -1) * sin for t in (q, k))
        k, v = (t.repeat_interleave(HEADS // SHARED, 1) for t in (k, v))
        return self.o(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.before, self.after = Attention(), nn.RMSNorm(WIDTH, 1e-5), nn.RMSNorm(WIDTH, 1e-5)
        self.gate, self.up, self.down = nn.Linear(WIDTH, INNER, False), nn.Linear(WIDTH, INNER, False), nn.Linear(INNER, WIDTH, False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.before(x), cos, sin)
        y = self.after(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Llama(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.layers, self.norm = nn.ModuleList(Layer() for _ in range(LAYERS)), nn.RMSNorm(WIDTH, 1e-5)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.embedding(input_ids)
        frequency = 500000.0 ** (-torch.arange(0, SIZE, 2, dtype=torch.float32) / SIZE)
        angle = torch.arange(input_ids.shape[1], dtype=torch.float32)[:, None] * torch.cat((frequency, frequency))
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.head(self.norm(x))


def llama(dtype: torch.dtype) -> Llama:
    """With random weights, whose memory is taken once."""
    with torch.device("meta"):
        module = Llama().to(dtype).eval()
    module.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for weight in module.parameters():
        weight.data.uniform_(-0.02, 0.02, generator=generator)
    return module.requires_grad_(False)
