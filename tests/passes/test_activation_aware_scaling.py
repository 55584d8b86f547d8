"""activation-aware-scaling: the same bits before quantization, less error after it."""

from __future__ import annotations

import torch

from edgecc.passes.activation_aware_scaling import ActivationAwareScaling
from edgecc.testing import apply
from tests.passes.test_smooth_quant import Added, loud
from tests.quantization.nets import normal, run, sqnr

FOUR_BITS = "insert-fake-quant{scheme='int4-weight-g16'}, finalize-quant"
PASS = ActivationAwareScaling(scheme="int4-weight-g16")


def test_every_bit_stays():
    program = loud()
    x = normal(8, 16, seed=9)
    want = program(x)[0]
    count, _ = apply(PASS, program)
    assert count == 1 and torch.equal(program(x)[0], want)


def test_four_bit_weights_lose_less_on_other_data_too():
    x = normal(64, 16, seed=9)[:8]
    want = loud()(x)[0]
    plain, scaled = loud(), loud()
    run(plain, FOUR_BITS)
    run(scaled, f"activation-aware-scaling{{scheme='int4-weight-g16'}}, {FOUR_BITS}", scaled.examples)
    assert sqnr(want, scaled(x)[0]) > sqnr(want, plain(x)[0]) + 3


def test_what_a_residual_reads_is_left_alone_with_the_reason():
    count, context = apply(PASS, loud(Added))
    assert count == 0 and [r.message for r in context.remarks] == ["not scaled: %layer_norm is also read by %add"]


def test_a_second_run_finds_nothing_more():
    program = loud()
    assert apply(PASS, program)[0] == 1 and apply(PASS, program)[0] == 0
