"""Idioms rather than architectures: eager spellings, dicts, tied weights, writes in place, integer inputs, data-dependent selection."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SpelledOutNorm(nn.Module):
    """LayerNorm by hand, `spelling` 0..3."""

    def __init__(self, width: int, spelling: int, eps: float = 1e-5):
        super().__init__()
        self.gain, self.shift = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.spelling, self.eps = spelling, eps

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(-1, keepdim=True)
        if self.spelling == 0:
            variance = x.var(-1, keepdim=True, unbiased=False)
            return (x - mean) / torch.sqrt(variance + self.eps) * self.gain + self.shift
        if self.spelling == 1:
            centred = x - mean
            return self.gain * (centred * torch.rsqrt((centred * centred).mean(-1, keepdim=True) + self.eps)) + self.shift
        if self.spelling == 2:
            variance = torch.mean((x - mean) ** 2, dim=-1, keepdim=True)
            return (x - mean) * (variance + self.eps) ** -0.5 * self.gain + self.shift
        variance, mean = torch.var_mean(x, dim=-1, correction=0, keepdim=True)
        return torch.addcmul(self.shift, (x - mean) / (variance + self.eps).sqrt(), self.gain)


def gelu(x: Tensor, spelling: int) -> Tensor:
    """GELU by hand: 0..2 by erf, 3 by tanh."""
    if spelling == 0:
        return x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))
    if spelling == 1:
        return 0.5 * x * (1 + torch.erf(x * 0.7071067811865475))
    if spelling == 2:
        return x * (torch.erf(x / 1.4142135623730951) + 1.0) / 2
    return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))


class SpelledOutBlock(nn.Module):
    """Attention with the scale on q or on the product, by matmul, einsum or baddbmm, and a mask."""

    def __init__(self, width: int, heads: int, spelling: int):
        super().__init__()
        self.heads, self.spelling = heads, spelling
        self.norm1, self.norm2 = SpelledOutNorm(width, spelling), SpelledOutNorm(width, (spelling + 1) % 4)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def split(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        return x.view(batch, tokens, self.heads, width // self.heads).transpose(1, 2)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        size = q.shape[-1]
        if self.spelling == 0:
            scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(size) + mask
            return torch.matmul(F.softmax(scores, dim=-1), v)
        if self.spelling == 1:
            scores = torch.einsum("bhqd,bhkd->bhqk", q * size**-0.5, k) + mask
            return torch.einsum("bhqk,bhkd->bhqd", torch.softmax(scores, -1), v)
        if self.spelling == 2:
            scores = (q @ k.permute(0, 1, 3, 2)).masked_fill(mask < 0, float("-inf")) * (1.0 / size**0.5)
            scores = scores - scores.amax(-1, keepdim=True)
            weights = scores.exp()
            return (weights / weights.sum(-1, keepdim=True)) @ v
        scores = torch.baddbmm(mask.expand(*q.shape[:3], q.shape[2]).flatten(0, 1), q.flatten(0, 1), k.flatten(0, 1).mT, alpha=size**-0.5)
        return torch.bmm(scores.softmax(-1, dtype=torch.float32), v.flatten(0, 1)).view_as(q)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y = self.norm1(x)
        y = self.attend(self.split(self.q(y)), self.split(self.k(y)), self.split(self.v(y)), mask)
        x = x + self.o(y.transpose(1, 2).contiguous().view(x.shape))
        return x + self.down(gelu(self.up(self.norm2(x)), self.spelling))


class SpelledOutTransformer(nn.Module):
    """Four blocks that say the same in four ways, under a causal mask."""

    def __init__(self, width: int = 16, vocabulary: int = 53):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(SpelledOutBlock(width, 2, i) for i in range(4))
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        size = tokens.shape[1]
        frequency = torch.exp(torch.arange(0, 16, 2) * (-math.log(10000.0) / 16))
        angle = torch.arange(size).unsqueeze(1) * frequency
        x = self.embedding(tokens) * 4.0 + torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(-2)
        mask = torch.triu(torch.full((size, size), -1e4), diagonal=1)[None, None]
        for block in self.blocks:
            x = block(x, mask)
        return self.head(x)


class RotaryDecoder(nn.Module):
    """Interleaved rotary positions, RMSNorm, grouped queries and SwiGLU by hand. Touvron et al. 2023."""

    def __init__(self, width: int = 24, vocabulary: int = 53):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.norms = nn.ParameterList(torch.ones(width) for _ in range(3))
        self.wq, self.wk, self.wv = nn.Linear(width, width, bias=False), nn.Linear(width, 12, bias=False), nn.Linear(width, 12, bias=False)
        self.wo = nn.Linear(width, width, bias=False)
        self.gate, self.up, self.down = (nn.Linear(a, b, bias=False) for a, b in ((width, 48), (width, 48), (48, width)))
        self.register_buffer("frequency", 1.0 / 10000 ** (torch.arange(0, 6, 2) / 6))

    def norm(self, x: Tensor, index: int) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.norms[index]

    def rotate(self, x: Tensor, angle: Tensor) -> Tensor:
        even, odd = x[..., ::2], x[..., 1::2]
        turned = (even * angle.cos() - odd * angle.sin(), even * angle.sin() + odd * angle.cos())
        return torch.stack(turned, dim=-1).flatten(-2)

    def forward(self, tokens: Tensor) -> Tensor:
        batch, size = tokens.shape
        x = self.embedding(tokens)
        y = self.norm(x, 0)
        angle = torch.outer(torch.arange(size, dtype=torch.float32), self.frequency)
        q = self.rotate(self.wq(y).view(batch, size, 4, 6).transpose(1, 2), angle)
        k = self.rotate(self.wk(y).view(batch, size, 2, 6).transpose(1, 2), angle)
        v = self.wv(y).view(batch, size, 2, 6).transpose(1, 2)
        k, v = k.repeat_interleave(2, dim=1), v[:, :, None].expand(-1, -1, 2, -1, -1).reshape(batch, 4, size, 6)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.wo(y.transpose(1, 2).reshape(batch, size, -1))
        y = self.norm(x, 1)
        x = x + self.down(F.silu(self.gate(y)) * self.up(y))
        return F.linear(self.norm(x, 2), self.embedding.weight)


class TwoTower(nn.Module):
    """A dict of dicts in, a dict with a nested tuple out."""

    def __init__(self, width: int = 16):
        super().__init__()
        self.words, self.picture = nn.Embedding(41, width), nn.Conv2d(3, width, 4, stride=4)
        self.temperature = nn.Parameter(torch.tensor(2.0))

    def forward(self, batch: dict[str, Tensor | dict[str, Tensor]]) -> dict[str, Tensor | tuple[Tensor, Tensor]]:
        text = self.words(batch["text"]["ids"])
        weight = batch["text"]["weight"].unsqueeze(-1)
        text = F.normalize((text * weight).sum(1) / weight.sum(1), dim=-1)
        image = F.normalize(self.picture(batch["image"]).amax((2, 3)), dim=-1)
        return {"similarity": image @ text.t() * self.temperature.exp(), "towers": (image, text)}


class SharedWeights(nn.Module):
    """One linear layer used twice, a tied decoder (its transpose), and one module under two names."""

    def __init__(self, width: int = 24, code: int = 12):
        super().__init__()
        self.encode = nn.Linear(width, code)
        self.middle = nn.Linear(code, code)
        self.again = self.middle
        self.norm = nn.LayerNorm(code)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        code = self.norm(F.gelu(self.middle(self.encode(x))))
        code = code + self.again(self.norm(code))
        return F.linear(code, self.encode.weight.t(), self.bias), code


class ResidualMLP(nn.Module):
    """Linear and BatchNorm1d in residual blocks, for tables of numbers. Gorishniy et al. 2021."""

    def __init__(self, features: int = 20, width: int = 32):
        super().__init__()
        self.enter_norm, self.enter = nn.BatchNorm1d(features), nn.Linear(features, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm1d(width),
                nn.Linear(width, 48),
                nn.ReLU(),
                nn.Dropout(0.1),
                nn.Linear(48, width, bias=False),
                nn.BatchNorm1d(width),
            )
            for _ in range(2)
        )
        self.leave = nn.Sequential(nn.BatchNorm1d(width), nn.Mish(), nn.Linear(width, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(self.enter_norm(x))
        for block in self.blocks:
            x = x + block(x)
        return self.leave(x)


class InPlace(nn.Module):
    """Writes in place, on fresh values, on views and through slices; the input itself is left alone."""

    def __init__(self, width: int = 16):
        super().__init__()
        self.first, self.second = nn.Linear(8, width), nn.Linear(width, width)
        self.register_buffer("scale", torch.linspace(0.5, 1.5, width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x).relu_()
        y += self.scale
        y[:, 0] += 1
        z = self.second(y)
        half = z.view(z.shape[0], 2, -1)
        half[:, 0].mul_(2.0)
        y.add_(z, alpha=0.5).clamp_(min=-1.0, max=3.0)
        z[:, 1:4] = y[:, 2:5]
        kept = z.clone()
        kept[kept < 0] = 0.25
        z.sub_(kept).tanh_()
        return torch.cat((y, z, kept), dim=1)


class InPlaceConvNet(nn.Module):
    """A batch-normalized net with one write through a view, which sends the whole graph the general way."""

    def __init__(self, classes: int = 10):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8)
        self.layer_norm, self.fc = nn.LayerNorm(8), nn.Linear(8, classes)
        self.attention = nn.Linear(8, 24)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.norm(self.conv(x)), inplace=True)
        x[:, ::2] *= 0.5
        tokens = F.gelu(F.max_pool2d(x, 4).flatten(2).transpose(1, 2))
        q, k, v = self.attention(self.layer_norm(tokens)).chunk(3, dim=-1)
        tokens = tokens + F.scaled_dot_product_attention(q, k, v)
        return self.fc(F.dropout(tokens, 0.1, self.training).mean(1))


class Recommender(nn.Module):
    """Embedded categories, numbers, pairwise products and an MLP. After Naumov et al. 2019."""

    def __init__(self, sizes: tuple[int, ...] = (19, 7, 31), width: int = 8):
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(size, width) for size in sizes)
        self.bottom = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, width), nn.ReLU())
        self.top = nn.Sequential(nn.Linear(width + 6, 16), nn.ReLU(), nn.Linear(16, 1))
        rows, columns = torch.tril_indices(4, 4, offset=-1)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)

    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        dense = self.bottom(torch.log1p(numbers.abs()))
        vectors = [dense] + [table(categories[:, i]) for i, table in enumerate(self.embeddings)]
        stacked = torch.cat(vectors, dim=1).view(dense.size(0), 4, -1)
        products = torch.bmm(stacked, stacked.transpose(1, 2))[:, self.rows, self.columns]
        return torch.sigmoid(self.top(torch.cat((dense, products), dim=1))).squeeze(-1)


class Controller(nn.Module):
    """A policy with dead bands, saturation and masks: where, clamp, comparisons, logic, integer arithmetic."""

    def __init__(self, width: int = 24):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(10, width), nn.ELU(), nn.Linear(width, width), nn.Softsign())
        self.action, self.value = nn.Linear(width, 4), nn.Linear(width, 1)
        self.register_buffer("limit", torch.tensor([1.0, 0.5, 0.25, 2.0]))

    def forward(self, state: Tensor, mode: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.trunk(state.clamp(-3.0, 3.0))
        action = self.action(features)
        action = torch.where(action.abs() < 0.05, torch.zeros_like(action), action)
        action = torch.minimum(torch.maximum(action, -self.limit), self.limit)
        safe = (state[:, :4] > -1.0) & ~(state[:, 4:8] >= 2.0) | (mode % 3 == 0).unsqueeze(-1)
        action = action.masked_fill(torch.logical_not(safe), 0.0)
        level = torch.bucketize(features[:, 0].contiguous(), torch.tensor([-0.5, 0.0, 0.5])) + mode // 2
        value = torch.where(mode == 1, self.value(features).squeeze(1), 0.0)
        return action, value, level


class DictMLP(nn.Module):
    """Optional and keyword inputs, a Python number that tracing fixes, and an output by name."""

    def __init__(self) -> None:
        super().__init__()
        self.observe, self.goal = nn.Linear(6, 16), nn.Linear(3, 16)
        self.mean, self.spread = nn.Linear(16, 2), nn.Linear(16, 2)

    def forward(self, observation: dict[str, Tensor], gain: float = 1.0, goal: Tensor | None = None) -> dict[str, Tensor]:
        x = self.observe(torch.cat((observation["position"], observation["velocity"]), -1))
        if goal is not None:
            x = x + gain * self.goal(goal)
        x = torch.tanh(x)
        return {"mean": self.mean(x), "spread": F.softplus(self.spread(x)) + 1e-3}
