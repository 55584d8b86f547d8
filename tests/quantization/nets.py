"""Small networks with random weights that the tests of quantization share, and how to run passes on them."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from edgecc.ir.program import Program
from edgecc.pipeline import manager
from edgecc.pipeline.context import PassContext
from edgecc.pipeline.spec import parse
from edgecc.registry import Registry
from edgecc.testing import trace_function


class Residual(nn.Module):
    """x [n, 3, 8, 8] -> [n, 5]: what a ResNet is made of."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.deep = nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = F.relu(self.deep(x) + x)
        return self.fc(F.max_pool2d(x, 2).mean((2, 3)))


class Separable(nn.Module):
    """x [n, 4, 6, 6] -> [n, 6, 6, 6]: convolutions one after another, with nothing but ReLU in between."""

    def __init__(self):
        super().__init__()
        self.first, self.deep, self.last = nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 6, 1)

    def forward(self, x):
        return self.last(F.relu(self.deep(F.relu(self.first(x)))))


class Transformer(nn.Module):
    """x [n, 5, 16] -> the same: a pre-norm block whose attention is spelled out, with a mask that hides the last place."""

    def __init__(self):
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16)
        self.norm2, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)
        self.register_buffer("mask", torch.arange(5) < 4)

    def forward(self, x):
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        scores = q @ k.transpose(-1, -2) / 4 + (1 - self.mask.float()) * torch.finfo(torch.float32).min
        x = x + self.out(scores.softmax(-1) @ v)
        return x + self.down(F.gelu(self.up(self.norm2(x))))


def traced(kind: type[nn.Module], *inputs: torch.Tensor, seed: int = 0) -> Program:
    torch.manual_seed(seed)
    return trace_function(kind().eval(), *inputs)


def normal(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def images(count: int = 4, seed: int = 1) -> torch.Tensor:
    return normal(count, 3, 8, 8, seed=seed)


def run(program: Program, text: str, *data: tuple[torch.Tensor, ...], **given) -> PassContext:
    """Run pipeline text in place; `data`: calibration samples."""
    context = PassContext([program.examples], calibration=list(data) if data else None, **given)
    manager.run(parse(text, Registry.create().passes), program, context)
    program.recompile()
    return context


def sqnr(want: torch.Tensor, got: torch.Tensor) -> float:
    return float(10 * torch.log10(want.double().square().sum() / (want.double() - got.double()).square().sum()))
