"""equalize-layers: the same bits, even ranges, and no scaling where it would be wrong."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgecc.passes.equalize_layers import EqualizeLayers
from edgecc.testing import apply
from tests.quantization.nets import Residual, Separable, images, normal, run, sqnr, traced


def uneven(seed=0):
    """Separable with channels of the inner values from 1/32 to 32 times as large as they were; the outputs stay."""
    program = traced(Separable, normal(2, 4, 6, 6), seed=seed)
    factor = 2.0 ** torch.tensor([-5, -4, -2, 0, 0, 2, 4, 5])
    stored = {n.target: n for n in program.graph.nodes if n.op == "get_attr"}
    for name, power in (("first.weight", 1), ("first.bias", 1), ("deep.weight", 0), ("deep.bias", 1)):
        tensor = program.weight(stored[name])
        program.set_weight(stored[name], tensor * (factor**power).view(-1, *[1] * (tensor.dim() - 1)))
    program.set_weight(stored["last.weight"], program.weight(stored["last.weight"]) / factor.view(1, -1, 1, 1))
    return program


def test_every_bit_stays():
    program = uneven()
    x = normal(3, 4, 6, 6, seed=7)[:2]
    want = program(x)[0]
    count, _ = apply(EqualizeLayers(), program)
    assert count == 2 and torch.equal(program(x)[0], want)


def test_ranges_are_within_a_factor_of_two_afterwards():
    """s is rounded to a power of two, so max|W1_i| / max|W2_i| ends between 1/2 and 2. Nagel et al. 2019, equation 11."""
    program = uneven()
    apply(EqualizeLayers(), program)
    first, deep, last = (program.weight(n.args[1]) for n in program.calls(torch.ops.aten.conv2d.default))
    for before, after in ((first, deep.flatten(1)), (deep, last.transpose(0, 1).flatten(1))):
        ratio = before.abs().flatten(1).amax(1) / after.abs().amax(1)
        assert float(ratio.max()) <= 2.0 and float(ratio.min()) >= 0.5


def test_quantized_outputs_are_nearer():
    want = uneven()(normal(2, 4, 6, 6))[0]
    plain, even = uneven(), uneven()
    scheme = "insert-fake-quant{scheme='int8'}, calibrate, finalize-quant"
    run(plain, scheme, plain.examples)
    run(even, f"equalize-layers, {scheme}", even.examples)
    assert sqnr(want, even(*even.examples)[0]) > sqnr(want, plain(*plain.examples)[0]) + 6


def test_a_value_that_is_also_added_is_left_alone():
    program = traced(Residual, images())
    _, context = apply(EqualizeLayers(), program)
    assert any("%relu is also read by %add" in r.message for r in context.remarks)


@pytest.mark.parametrize("kind", ["gelu", "linear_into_convolution", "pool_of_rows"])
def test_what_is_no_pair_of_layers_is_left_alone(kind):
    """The lengths of the axes are equal, so that only their meaning tells."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.conv = nn.Linear(4, 4), nn.Linear(4, 4), nn.Conv1d(4, 4, 1)

        def forward(self, x):
            if kind == "gelu":
                return self.b(F.gelu(self.a(x)))
            if kind == "linear_into_convolution":
                return self.conv(self.a(x))
            return self.b(F.max_pool1d(self.a(x), 3, 1, 1))

    program = traced(Net, normal(2, 4, 4))
    want = program(*program.examples)[0]
    count, _ = apply(EqualizeLayers(), program)
    assert count == 0 and torch.equal(program(*program.examples)[0], want)


def test_a_convolution_before_a_mean_is_paired_with_the_linear_layer_after_it():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

        def forward(self, x):
            return self.fc(F.avg_pool2d(F.relu(self.conv(x)), 2).mean((2, 3)))

    program = traced(Net, images())
    conv = program.calls(torch.ops.aten.conv2d.default)[0]
    program.set_weight(conv.args[1], program.weight(conv.args[1]) * torch.tensor([1.0, 8, 64, 256]).view(-1, 1, 1, 1))
    want = program(images(seed=3))[0]
    count, _ = apply(EqualizeLayers(), program)
    assert count == 1 and torch.equal(program(images(seed=3))[0], want)
