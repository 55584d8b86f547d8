"""approximate-gelu: erf by tanh, within the distance that it states, and nothing else."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from edgecc.passes.approximate_gelu import ApproximateGelu
from edgecc.testing import apply, trace_function

X = torch.linspace(-8, 8, 4001)


def test_a_gelu_with_erf_is_that_with_tanh() -> None:
    program = trace_function(lambda x: F.gelu(x), X)
    count, context = apply(ApproximateGelu(), program)
    assert count == 1 and "erf" in next(iter(context.remarks)).message
    torch.testing.assert_close(program(X)[0], F.gelu(X, approximate="tanh"), atol=0, rtol=0)
    # the figure of the docstring, against the exact function: it is reached, and not passed by more than float32 rounds
    assert 4.6e-4 <= float((program(X)[0] - F.gelu(X)).abs().max()) <= 4.8e-4


def test_one_with_tanh_and_other_activations_are_left_alone() -> None:
    program = trace_function(lambda x: F.gelu(x, approximate="tanh") + F.silu(x), X)
    assert apply(ApproximateGelu(), program)[0] == 0


def test_a_second_run_finds_nothing() -> None:
    program = trace_function(lambda x: F.gelu(x), X)
    apply(ApproximateGelu(), program)
    assert apply(ApproximateGelu(), program)[0] == 0
