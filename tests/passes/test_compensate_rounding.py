"""compensate-rounding: weights on the grid with less error of the output than rounding to nearest, near the best there is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgecc.errors import UsageError
from edgecc.passes.compensate_rounding import CompensateRounding
from edgecc.quantization import fake_quant
from edgecc.quantization.affine import dequantize, quantize
from edgecc.quantization.statistics import second_moments, vectors
from edgecc.testing import apply
from tests.quantization.nets import Residual, images, normal, run, sqnr, traced

aten = torch.ops.aten


class Layer(nn.Module):
    """x [n, 6] -> [n, 5]."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 5)

    def forward(self, x):
        return self.fc(x)


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 90)

    def forward(self, x):
        return self.fc(x)


class Wide(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 9)

    def forward(self, x):
        return self.fc(x)


def correlated(count=200, width=6):
    return normal(count, 2) @ normal(2, width, seed=3) + 0.1 * normal(count, width, seed=4)


def on_the_grid(program, found):
    w, scale = program.weight(found.stored), program.weight(found.scale).view(-1, *[1] * (program.weight(found.stored).dim() - 1))
    return torch.equal(dequantize(quantize(w, scale, torch.zeros(1), found.limits), scale, torch.zeros(1)), w)


def test_weights_stand_on_the_grid_and_a_second_run_changes_nothing():
    program = traced(Layer, correlated())
    run(program, "insert-fake-quant{scheme='int4-weight-channel'}")
    assert apply(CompensateRounding(), program)[0] == 1
    assert on_the_grid(program, fake_quant.weights(program)[0])
    assert apply(CompensateRounding(), program)[0] == 0


def test_the_second_column_makes_up_for_the_first_as_least_squares_says():
    """Given q1, the best real w2 is w2 + (w1 - q1) h12 / h22; that is what is rounded."""
    x = normal(200, 2) @ torch.tensor([[1.0, 0.95], [0.0, 0.3]])
    program = traced(Pair, x)
    run(program, "insert-fake-quant{scheme='int4-weight-channel'}")
    found = fake_quant.weights(program)[0]
    w, scale = program.weight(found.stored).double(), program.weight(found.scale).double()
    h = (x.T @ x).double()
    first = (w[:, 0] / scale).round().clamp(-7, 7) * scale
    second = ((w[:, 1] + (w[:, 0] - first) * h[0, 1] / h[1, 1]) / scale).round().clamp(-7, 7) * scale
    assert not torch.equal(second, (w[:, 1] / scale).round() * scale)
    apply(CompensateRounding(damping=1e-9), program)
    assert torch.allclose(program.weight(found.stored).double(), torch.stack([first, second], 1), atol=1e-6)


def test_the_error_is_far_below_that_of_rounding_to_nearest():
    x = correlated(width=64)
    program = traced(Wide, x)
    run(program, "insert-fake-quant{scheme='int4-weight-channel'}")
    found = fake_quant.weights(program)[0]
    w, scale = program.weight(found.stored), program.weight(found.scale)[:, None]
    nearest = dequantize(quantize(w, scale, torch.zeros(1), found.limits), scale, 0)
    apply(CompensateRounding(), program)
    error, before = (float((x @ (w - q).T).square().sum()) for q in (program.weight(found.stored), nearest))
    assert error < before / 4


def test_inputs_that_are_independent_leave_nothing_to_compensate():
    """H = I: every column is rounded to nearest."""
    x = torch.eye(6)
    program = traced(Layer, x)
    run(program, "insert-fake-quant{scheme='int4-weight-channel'}")
    assert apply(CompensateRounding(), program)[0] == 0


@pytest.mark.parametrize("geometry", [{}, {"stride": 2, "padding": 1}, {"groups": 2}, {"groups": 4}, {"dilation": 2}])
def test_vectors_of_a_convolution_are_what_its_rows_are_multiplied_by(geometry):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 8, 3, bias=False, **geometry)

        def forward(self, x):
            return self.conv(x)

    x = normal(2, 4, 9, 9)
    program = traced(Net, x)
    (node,) = program.calls(aten.conv2d.default)
    seen = vectors(node, x)
    rows = program.weight(node.args[1]).reshape(len(seen), 8 // len(seen), -1)
    want = program(x)[0]
    got = (seen @ rows.transpose(1, 2)).view(len(seen), 2, -1, 8 // len(seen)).permute(1, 0, 3, 2).reshape(want.shape)
    assert torch.allclose(got, want, atol=1e-5)


def test_second_moments_are_summed_over_samples():
    program = traced(Layer, correlated())
    parts = [(p,) for p in correlated().split(70)]
    (node,) = program.calls(aten.linear.default)
    h = second_moments(program, [node], parts, _Silent())[node]
    assert torch.allclose(h[0], (correlated().T @ correlated()).double(), rtol=1e-5)


class _Silent:
    def step(self, what):
        pass

    def detail(self, what):
        pass


def test_convolutions_and_groups_lose_less():
    x = normal(8, 3, 8, 8, seed=2)
    want = traced(Residual, images())(x[:4])[0]
    for scheme in ("int4-weight-channel", "w3a16"):
        plain, better = traced(Residual, images()), traced(Residual, images())
        run(plain, f"insert-fake-quant{{scheme='{scheme}'}}, finalize-quant")
        run(better, f"insert-fake-quant{{scheme='{scheme}'}}, compensate-rounding, finalize-quant", (x[:4],), (x[4:],))
        assert sqnr(want, better(x[:4])[0]) > sqnr(want, plain(x[:4])[0])


def test_inputs_that_are_always_zero_do_no_harm():
    x = correlated()
    x[:, 2] = 0
    program = traced(Layer, x)
    run(program, "insert-fake-quant{scheme='int4-weight-channel'}")
    apply(CompensateRounding(), program)
    assert bool(torch.isfinite(program.weight(fake_quant.weights(program)[0].stored)).all())


def test_a_damping_of_zero_is_refused():
    with pytest.raises(UsageError, match="damping is 0"):
        apply(CompensateRounding(damping=0.0), traced(Layer, correlated()))
