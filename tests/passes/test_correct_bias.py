"""correct-bias: the means of a quantized layer's channels become those of floating point."""

from __future__ import annotations

import torch
from torch import nn

from edgecc.passes.correct_bias import CorrectBias
from edgecc.pipeline.blame import values
from edgecc.testing import apply
from tests.quantization.nets import Residual, images, normal, run, traced

TEXT = "insert-fake-quant{scheme='w3a8'}, calibrate"
aten = torch.ops.aten


def means(program, x):
    seen = values(program, (x,))
    return [seen[n.name].transpose(0, 1).flatten(1).mean(1) for n in program.calls(aten.conv2d.default)]


def test_the_mean_of_every_channel_is_that_of_floating_point():
    x = images(8)[:4]
    want = means(traced(Residual, images()), x)
    program = traced(Residual, images())
    run(program, TEXT, (x,))
    before = means(program, x)
    run(program, "correct-bias", (x,))
    after = means(program, x)
    for a, b, c in zip(want, before, after, strict=True):
        assert float((a - b).abs().max()) > 1e-3 and torch.allclose(
            a, c, atol=3e-4
        )  # 3e-4: what is left uncorrected, 1e-4 of outputs up to 3


def test_a_missing_bias_is_added_and_a_shared_one_is_not_changed():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (nn.Linear(4, 4, bias=k > 0) for k in range(3))
            self.c.bias = self.b.bias

        def forward(self, x):
            return self.c(self.b(self.a(x).relu()).relu())

    x = normal(64, 4).abs()
    program = traced(Net, x)
    run(program, "insert-fake-quant{scheme='w2a8'}, calibrate, correct-bias", (x,))
    biases = [n.args[2].target for n in program.calls(aten.linear.default)]
    assert len(set(biases)) == 3


def test_a_second_run_finds_nothing_to_correct():
    program = traced(Residual, images())
    run(program, f"{TEXT}, correct-bias", (images(),))
    text = str(program.graph)
    assert apply(CorrectBias(), program)[0] == 0 and str(program.graph) == text


def test_a_shift_that_a_few_loud_places_make_is_left():
    """One row in eight is far outside of the range: its error must not move the others."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            return self.fc(x)

    x = normal(64, 4)
    program = traced(Net, x)
    run(program, "insert-fake-quant, calibrate", (x,))
    loud = x.clone()
    loud[::8] += 100
    context = run(program, "correct-bias", (loud,))
    assert not [r for r in context.remarks if r.kind == "applied"]
