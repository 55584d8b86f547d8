"""Small quantized programs, and data that they can learn."""

from __future__ import annotations

import torch
from torch import nn

from edgecc.ir.program import Program
from edgecc.passes.calibrate import Calibrate
from edgecc.passes.insert_fake_quant import InsertFakeQuant
from edgecc.pipeline.context import PassContext
from edgecc.testing import trace_function


def mlp(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()


def convnet() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def quantized(model: nn.Module, *inputs: torch.Tensor, scheme: str = "w2a8") -> Program:
    """A program with calibrated fake-quant nodes."""
    program = trace_function(model, *inputs)
    quantize(program, *inputs, scheme=scheme)
    return program


def quantize(program: Program, *inputs: torch.Tensor, scheme: str) -> None:
    context = PassContext(samples=(inputs,), calibration=[inputs])
    InsertFakeQuant(scheme=scheme).run(program, context)
    Calibrate().run(program, context)
    program.drop_unused_weights()
    program.recompile()


def lessons(model: nn.Module, rows: int = 32, count: int = 8) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Batches labelled by the float model, which a good program can learn."""
    x = numbers(rows * count, 8)
    with torch.no_grad():
        y = model(x).argmax(1)
    return [(x[i : i + rows], y[i : i + rows]) for i in range(0, rows * count, rows)]
