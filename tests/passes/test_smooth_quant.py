"""smooth-quant: the same bits, outliers that are gone from the activations, and reasons where nothing could be done."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgecc.errors import UsageError
from edgecc.passes.smooth_quant import SmoothQuant
from edgecc.pipeline.blame import values
from edgecc.testing import apply
from tests.quantization.nets import normal, run, sqnr, traced

FUSED = "normalize: decompose, canonicalize | fuse: fuse-layer-norm"


class Loud(nn.Module):
    """x [n, 16] -> [n, 8]: a norm whose channel 3 is 64 times as loud as the others, read by two layers. `residual`: and by a sum."""

    residual = False

    def __init__(self):
        super().__init__()
        self.norm, self.a, self.b = nn.LayerNorm(16), nn.Linear(16, 16), nn.Linear(16, 16)
        with torch.no_grad():
            self.norm.weight[3], self.norm.bias[3] = 64.0, 16.0
            self.a.weight[:, 3] /= 64
            self.b.weight[:, 3] /= 64

    def forward(self, x):
        x = self.norm(x)
        y = self.a(x) * F.gelu(self.b(x))
        return y + x if self.residual else y


class Added(Loud):
    residual = True


def loud(kind=Loud):
    program = traced(kind, normal(8, 16))
    run(program, FUSED)
    return program


def test_every_bit_stays():
    program = loud()
    x = normal(8, 16, seed=9)
    want = program(x)[0]
    count, _ = apply(SmoothQuant(), program)
    assert count == 1 and torch.equal(program(x)[0], want)


def test_the_loud_channel_is_divided_by_what_the_paper_says():
    """s_j = max|x_j|^a / max|W_j|^(1 - a), to the nearest power of two. Xiao et al. 2023, equation 4."""
    program = loud()
    (norm,) = program.calls(torch.ops.aten.layer_norm.default)
    linears = program.calls(torch.ops.aten.linear.default)
    x = values(program, program.examples)[norm.name].abs().amax(0)
    w = torch.stack([program.weight(n.args[1]).abs().amax(0) for n in linears]).amax(0)
    before = program.weight(norm.args[2])
    apply(SmoothQuant(alpha=0.7), program)
    exponent = torch.log2(before / program.weight(norm.args[2]))
    assert torch.equal(exponent, torch.log2(x**0.7 / w**0.3).round())


def test_quantized_outputs_are_nearer():
    want = loud()(normal(8, 16))[0]
    plain, smooth = loud(), loud()
    scheme = "insert-fake-quant, calibrate{method='min-max'}, finalize-quant"
    run(plain, scheme, plain.examples)
    run(smooth, f"smooth-quant, {scheme}", smooth.examples)
    assert sqnr(want, smooth(*smooth.examples)[0]) > sqnr(want, plain(*plain.examples)[0]) + 6


def test_a_norm_that_a_residual_reads_is_left_alone_with_the_reason():
    program = loud(Added)
    count, context = apply(SmoothQuant(), program)
    assert count == 0 and [r.message for r in context.remarks] == ["not smoothed: %layer_norm is also read by %add"]


def test_a_multiplication_is_inserted_where_it_is_asked_for_and_every_bit_stays():
    program = loud(Added)
    x = normal(8, 16, seed=9)
    want = program(x)[0]
    count, _ = apply(SmoothQuant(insert=True), program)
    assert count == 1 and torch.equal(program(x)[0], want)
    assert apply(SmoothQuant(insert=True), program)[0] == 0


def test_half_of_a_gated_unit_takes_the_factors():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate, self.up, self.down = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 4)

        def forward(self, x):
            return self.down(F.silu(self.gate(x)) * (self.up(x) * 1))

    program = traced(Gated, normal(4, 4))
    run(program, "normalize: decompose, canonicalize | fuse: fuse-silu")
    up = program.calls(torch.ops.aten.linear.default)[1]
    program.set_weight(up.args[1], program.weight(up.args[1]) * torch.logspace(0, 2, 8)[:, None])
    want = program(normal(4, 4, seed=2))[0]
    count, _ = apply(SmoothQuant(), program)
    assert count == 1 and torch.equal(program(normal(4, 4, seed=2))[0], want)


def test_alpha_out_of_range_is_refused():
    with pytest.raises(UsageError, match="alpha is 2, want 0 to 1"):
        apply(SmoothQuant(alpha=2.0), loud())
