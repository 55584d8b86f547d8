"""Products of floats by constants that stay integers: on every kind of CPU they give what PyTorch gives for the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from edgecc.ir.integer import integer
from edgecc.testing import trace_function
from tests.targets import integer_host as host
from tests.targets.lowering_host import close

pytestmark = pytest.mark.slow

CPUS = (*[c for c in ("x86-64-v2", "x86-64-v3", "x86-64-v4") if c in host.X86], "cortex-a72")
LINEARS = [  # rows, in, out, groups, bits, shifted
    *[(1, 64, 48, 2, 4, False), (1, 64, 10, 1, 4, False), (3, 96, 33, 3, 4, True), (8, 32, 16, 1, 8, False), (7, 30, 29, 2, 8, True)],
    *[(1, 7, 5, 1, 8, False), (17, 128, 100, 4, 4, False), (1, 384, 72, 12, 4, True), (5, 14, 8, 1, 4, False), (2, 9, 3, 3, 4, False)],
]
CONVOLUTIONS = [(3, 8, 9, 3, 1, 1, 1), (8, 16, 8, 3, 2, 1, 1), (16, 12, 7, 1, 1, 0, 1), (8, 8, 9, 3, 1, 1, 8), (4, 6, 9, 3, 1, 2, 2)]


class Linears(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        for number, (_, inputs, outputs, groups, bits, shifted) in enumerate(LINEARS):
            limit = 1 << (bits - 1)
            codes = torch.randint(-limit, limit, (outputs, inputs), generator=generator).to(torch.int8)
            self.register_buffer(f"codes{number}", codes)
            self.register_buffer(f"scale{number}", torch.rand(outputs, groups, generator=generator) / limit)
            for name, value in (
                ("shift", torch.randn(outputs, groups, generator=generator) / 3 if shifted else None),
                ("bias", torch.randn(outputs, generator=generator) if number % 2 else None),
            ):
                if value is not None:  # torch.export wants no buffer that is None
                    self.register_buffer(f"{name}{number}", value)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = []
        for number, (x, spec) in enumerate(zip(inputs, LINEARS, strict=True)):
            codes, scale, shift, bias = (getattr(self, f"{k}{number}", None) for k in ("codes", "scale", "shift", "bias"))
            found.append(torch.relu(integer.linear_codes(x, codes, scale, shift, bias, spec[4])))
        return tuple(found)


@pytest.mark.parametrize("cpu", CPUS)
def test_linear_layers(cpu, tmp_path):
    generator = torch.Generator().manual_seed(1)
    inputs = [torch.randn(rows, depth, generator=generator) for rows, depth, *_ in LINEARS]
    rules = _check(Linears(), cpu, inputs, tmp_path)
    assert sum("weights of 4 bits" in r for r in rules) == 6 and sum("weights of 8 bits" in r for r in rules) == 4, rules
    size = (tmp_path / "model.so").stat().st_size
    assert size < 150_000, "the codes would be 4 times as large as floats"


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for number, (channels, outputs, _, kernel, *_, groups) in enumerate(CONVOLUTIONS):
            self.register_buffer(f"codes{number}", host.codes(outputs, channels // groups, kernel, kernel))
            self.register_buffer(f"scale{number}", torch.rand(outputs, generator=torch.Generator().manual_seed(number)) / 100)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = []
        for number, (x, (*_, stride, padding, groups)) in enumerate(zip(inputs, CONVOLUTIONS, strict=True)):
            codes, scale = getattr(self, f"codes{number}"), getattr(self, f"scale{number}")
            found.append(integer.conv_codes(x, codes, scale, None, [stride] * 2, [padding] * 2, [1, 1], groups))
        return tuple(found)


@pytest.mark.parametrize("cpu", CPUS)
def test_convolutions(cpu, tmp_path):
    generator = torch.Generator().manual_seed(1)
    inputs = [torch.randn(1, channels, side, side, generator=generator) for channels, _, side, *_ in CONVOLUTIONS]
    _check(Convolutions(), cpu, inputs, tmp_path)


def _check(model, cpu, inputs, folder):
    """Within 2e-6 of the largest magnitude: float32 sums of a few hundred terms in another order."""
    program = trace_function(model, *inputs)
    (outputs,), rules = host.run(program, cpu, [inputs], folder)
    for got, want in zip(outputs, program(*inputs), strict=True):
        close(np.asarray(got), want)
    return rules
