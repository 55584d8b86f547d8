"""Trainees: they compute what the program computes, and their gradients are those of the papers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from edgecc.errors import UsageError
from edgecc.quantization import fake_quant
from edgecc.testing import trace_function
from edgecc.training.trainee import in_float, trainee
from tests.training.nets import convnet, mlp, numbers, quantized


@pytest.mark.parametrize("learn_scales", [False, True])
@pytest.mark.parametrize("scheme", ["w4a8", "int8", "w4a8-g16", "int8-dynamic"])
def test_a_trainee_computes_what_the_program_computes(scheme, learn_scales):
    program = quantized(mlp(), numbers(4, 8), scheme=scheme)
    x = numbers(4, 8, seed=5)
    assert torch.equal(trainee(program, learn_scales=learn_scales).program(x)[0], program(x)[0])


def test_weights_biases_and_scales_have_gradients_and_zero_points_have_none():
    program = quantized(convnet(), numbers(2, 3, 8, 8))
    student = trainee(program, learn_scales=True)
    student.program.module(numbers(2, 3, 8, 8))[0].square().sum().backward()
    assert sorted(student.weights) == ["0.bias", "0.weight", "4.bias", "4.weight"]
    scales = {str(f.scale.target) for f in (*fake_quant.activations(program), *fake_quant.weights(program))}
    assert student.scales.keys() == scales
    assert all(t.grad is not None and bool(t.grad.abs().sum() > 0) for t in student.parameters.values())


def test_a_scale_has_the_gradient_of_learned_step_sizes():
    """Esser et al. 2020, equation 3: -v + round(v) inside, -Qn and Qp outside, for v = x / s; times 1 / sqrt(n Qp). Of v within half a
    step beyond a limit, which rounds to it, the paper says outside and ATen inside.
    """
    program = quantized(nn.Linear(8, 4, bias=False), numbers(4, 8), scheme="w4a16")
    (found,) = fake_quant.weights(program)
    program.set_weight(found.scale, program.weight(found.scale) / 2)  # so that some weights are outside
    w, s, x = program.weight(found.stored).double(), program.weight(found.scale).double()[:, None], numbers(4, 8, seed=2)
    student = trainee(program, learn_scales=True)
    student.program.module(x)[0].sum().backward()
    v, (low, high) = w / s, found.limits
    slope = torch.where(v.round() < low, low, torch.where(v.round() > high, high, v.round() - v))
    assert bool((v > high).any()) and bool((v.abs() < high).any())
    want = (slope * x.double().sum(0)).sum(1) / math.sqrt(8 * high)
    assert torch.allclose(student.scales[str(found.scale.target)].grad.double(), want, rtol=1e-4)  # x / s near .5 in float32


def test_rounding_is_straight_through_inside_the_range_and_flat_outside():
    program = quantized(nn.Linear(8, 4, bias=False), numbers(4, 8), scheme="w4a16")
    (found,) = fake_quant.weights(program)
    program.set_weight(found.scale, program.weight(found.scale) / 2)
    x = numbers(4, 8, seed=2)
    student = trainee(program, learn_scales=False)
    student.program.module(x)[0].sum().backward()
    q = (program.weight(found.stored) / program.weight(found.scale)[:, None]).round()
    inside = (q >= found.limits[0]) & (q <= found.limits[1])
    want = torch.where(inside, x.sum(0), torch.zeros(()))
    assert not inside.all() and torch.allclose(student.weights["weight"].grad, want, rtol=1e-6, atol=1e-6)  # a sum of four


def test_gradients_pass_rows_that_are_rounded_at_run_time():
    program = quantized(mlp(), numbers(4, 8), scheme="int8-dynamic")
    student = trainee(program, learn_scales=False)
    student.program.module(numbers(4, 8))[0].square().sum().backward()
    plain = trainee(trace_function(mlp(), numbers(4, 8)), learn_scales=False)
    plain.program.module(numbers(4, 8))[0].square().sum().backward()
    ours, theirs = student.weights["0.weight"].grad, plain.weights["0.weight"].grad
    assert float(torch.cosine_similarity(ours.flatten(), theirs.flatten(), 0)) > 0.99  # 8 bits: close to the float gradient


def test_a_tied_weight_is_trained_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(6, 4)

        def forward(self, ids):
            return self.table(ids) @ self.table.weight.t()

    program = trace_function(Tied(), torch.tensor([[1, 2]]))
    assert list(trainee(program, learn_scales=True).weights) == ["table.weight"]


def test_masks_and_other_constants_are_not_trained():
    def masked(x, w):
        return torch.nn.functional.linear(x, w) + torch.full((4,), -1e4)

    program = trace_function(masked, numbers(2, 8), numbers(4, 8))
    with pytest.raises(UsageError, match="no weight that can be trained"):
        trainee(program, learn_scales=True)


def test_codes_have_nothing_to_train():
    with pytest.raises(UsageError, match="codes such as nf4 are fixed"):
        trainee(quantized(nn.Linear(64, 4, bias=False), numbers(2, 64), scheme="nf4"), learn_scales=True)


def test_only_what_changed_is_written_back_and_shared_tensors_stay():
    program = quantized(mlp(), numbers(4, 8))
    snapshot, before = program.snapshot(), {k: v.clone() for k, v in program.weights().items()}
    student = trainee(program, learn_scales=True)
    with torch.no_grad():
        student.weights["0.bias"].add_(1.0)
    assert student.write_back(program) == 1
    assert torch.equal(program.weights()["0.bias"], before["0.bias"] + 1)
    assert all(torch.equal(t, before[k]) for k, t in snapshot.weights().items())
    assert not program.stored("0.bias").requires_grad


def test_a_scale_keeps_a_part_of_itself():
    student = trainee(quantized(mlp(), numbers(4, 8)), learn_scales=True)
    before = {k: s.detach().clone() for k, s in student.scales.items()}
    with torch.no_grad():
        for scale in student.scales.values():
            scale.mul_(-1.0)
    student.clamp_scales()
    assert all(torch.equal(s.detach(), before[k] / 64) for k, s in student.scales.items())


@pytest.mark.parametrize("scheme", ["w2a8", "w4a8-g16", "int8-dynamic"])
def test_the_float_program_is_the_model(scheme):
    model, x = mlp(), numbers(4, 8)
    program = quantized(model, x, scheme=scheme)
    assert torch.equal(in_float(program)(x)[0], model(x)) and not torch.equal(program(x)[0], model(x))
