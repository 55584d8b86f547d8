"""assign-precision: the layer that spoils the outputs is found, and as few as the limit allows are raised."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgecc.errors import ContractError
from edgecc.quantization import fake_quant
from tests.quantization.nets import Transformer, normal, run, sqnr, traced

aten = torch.ops.aten
TEXT = "insert-fake-quant{scheme='int8'}, calibrate{method='min-max'}"


class Fragile(nn.Module):
    """x [n, 8] -> [n, 8]: three layers, the second of which reads one number that is 1000 times as large as the others."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        with torch.no_grad():
            self.a.bias[0] = 1000.0
            self.b.weight[:, 0] = 0.0

    def forward(self, x):
        return self.c(self.b(self.a(x)).tanh() * 1.5)


X = normal(64, 8)


def fragile():
    return traced(Fragile, X)


def similarity(program):
    """SQNR against floating point, as an evaluation."""
    return sqnr(fragile()(X)[0], program(X)[0]) if not torch.equal(fragile()(X)[0], program(X)[0]) else 200.0


def raised(program):
    return [n.args[0].target is not fake_quant.ACTIVATION for n in program.calls(aten.linear.default)]


def test_the_layer_that_alone_spoils_the_outputs_is_raised():
    program = fragile()
    context = run(program, f"{TEXT}, assign-precision", (X,))
    assert raised(program) == [False, True, False]
    assert set(context.facts["sensitivity_db"]) == {"linear", "linear_1", "linear_2"}
    want = fragile()(X)[0]
    assert sqnr(want, program(X)[0]) > 20


def test_the_weights_of_a_raised_layer_stay_integers():
    program = fragile()
    run(program, f"{TEXT}, assign-precision, finalize-quant", (X,))
    assert sum(t.dtype is torch.int8 for t in program.weights().values()) == 3


def test_as_few_layers_as_hold_the_limit_are_raised():
    program = fragile()
    run(program, f"{TEXT}, assign-precision", (X,), evaluate=lambda p: min(similarity(p), 25.0), max_drop=0.5)
    assert raised(program) == [False, True, False] and similarity(program) >= 24.5


def test_nothing_is_raised_where_the_limit_holds_anyway():
    program = fragile()
    run(program, f"{TEXT}, assign-precision", (X,), evaluate=lambda p: 1.0, max_drop=0.0)
    assert raised(program) == [False, False, False]


def test_a_limit_that_cannot_hold_is_a_contract_that_fails():
    scores = iter([1.0, 0.0, 0.0])
    with pytest.raises(ContractError, match=r"more than 0\.1 of the evaluation is lost even with every layer"):
        run(fragile(), f"{TEXT}, assign-precision", (X,), evaluate=lambda p: next(scores), max_drop=0.1)


def test_without_data_attention_stays_in_floating_point():
    program = traced(Transformer, normal(2, 5, 16))
    run(program, "normalize: decompose, canonicalize | compress: insert-fake-quant, calibrate, assign-precision, finalize-quant")
    for product in program.calls(aten.matmul.default):
        assert not any(a.target is torch.ops.quantized_decomposed.dequantize_per_tensor.default for a in product.args)
    assert all(n.args[0].target is torch.ops.quantized_decomposed.dequantize_per_tensor.default for n in program.calls(aten.linear.default))


def test_weights_of_few_bits_become_8_bits():
    program = fragile()
    run(program, "insert-fake-quant{scheme='w2a16'}, assign-precision{min_sqnr_db=30.0}", (X,))
    assert {w.kind.bits for w in fake_quant.weights(program)} == {8}
