"""finalize-quant: integers give the bits that fake-quant gave, weights are stored once, and nothing uncalibrated passes."""

from __future__ import annotations

import pytest
import torch

from edgecc.errors import UsageError
from edgecc.passes.finalize_quant import FinalizeQuant
from edgecc.testing import apply
from tests.quantization.nets import Residual, Separable, Transformer, images, normal, run, traced

CASES = {"residual": (Residual, (4, 3, 8, 8)), "separable": (Separable, (2, 4, 6, 6)), "transformer": (Transformer, (2, 5, 16))}


@pytest.mark.parametrize("scheme", ["int8", "int8-weight", "int4-weight", "w4a8", "w8a4", "int4-weight-g16-asym", "int8-weight-asym"])
@pytest.mark.parametrize("net", CASES)
def test_integers_give_the_bits_of_fake_quant(net, scheme):
    kind, shape = CASES[net]
    program = traced(kind, normal(*shape))
    run(program, f"insert-fake-quant{{scheme='{scheme}'}}, calibrate", program.examples)
    fake = program(*program.examples)[0]
    count, _ = apply(FinalizeQuant(), program)
    assert count > 0 and torch.equal(program(*program.examples)[0], fake)
    assert torch.equal(program(3 * program.examples[0])[0], program(3 * program.examples[0])[0])


def test_weights_are_stored_once_as_integers():
    program = traced(Residual, images())
    run(program, "insert-fake-quant, calibrate, finalize-quant", (images(),))
    stored = {n: t for n, t in program.weights().items() if t.dim() > 1}
    assert {t.dtype for t in stored.values()} == {torch.int8} and len(stored) == 3
    assert all(int(t.min()) >= -127 for t in stored.values())


def test_ranges_that_were_never_calibrated_are_listed():
    program = traced(Residual, images())
    run(program, "insert-fake-quant")
    with pytest.raises(UsageError, match=r"7 range\(s\) are not calibrated:\n  %x(.|\n)*nets.py:\d+(.|\n)*calibrate before"):
        apply(FinalizeQuant(), program)


def test_quantization_changes_every_weight():
    """A configuration that matches nothing leaves the bits as they are: this one must not."""
    program = traced(Residual, images())
    before = {n: t.clone() for n, t in program.weights().items() if t.dim() > 1}
    run(program, "insert-fake-quant, calibrate, finalize-quant", (images(),))
    for name, old in before.items():
        q, scale = program.weights()[f"{name}_quantized"], program.weights()[f"{name}_scale"]
        back = q * scale.view(-1, *[1] * (q.dim() - 1))
        assert not torch.equal(back, old) and float((back - old).abs().max()) <= float(scale.max()) / 2 * 1.0001
