"""fold-constants: what does not depend on the inputs is computed at compile time, if it is worth storing."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from edgecc.ir.quantized import quantized
from edgecc.ir.signature import Dim
from edgecc.passes.fold_constants import FoldConstants
from edgecc.testing import apply, operators, trace_function

BATCH = {"x": {0: Dim("batch", 1, 8)}}
X = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))


def fold(function: object, *inputs: torch.Tensor, dims: object = None, **options: float) -> tuple[object, ...]:
    """Trace and fold, check that every bit stays and that a second run finds nothing."""
    program = trace_function(function, *inputs, dims=dims)
    before = program(*inputs)
    count, context = apply(FoldConstants(**options), program)
    for a, b in zip(before, program(*inputs), strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)
    assert apply(FoldConstants(**options), program)[0] == 0
    return count, program, context


class Positions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([0.5, 2.0, 3.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        angles = torch.arange(4)[:, None] * self.scale
        return x + torch.cat([angles.cos(), angles.sin()], 1)


def test_a_position_table_becomes_one_weight() -> None:
    for dims in (None, BATCH):
        count, program, _ = fold(Positions(), X, dims=dims)
        assert count == 1 and operators(program) == ["aten.add.Tensor"]
        ((name, table),) = program.weights().items()
        angles = torch.arange(4)[:, None] * torch.tensor([0.5, 2.0, 3.0])
        assert torch.equal(table, torch.cat([angles.cos(), angles.sin()], 1)) and name == "cat"


def test_sizes_and_fills_of_a_static_input_fold_and_of_a_dynamic_one_do_not() -> None:
    assert fold(lambda x: x + torch.ones_like(x), X)[0] == 1
    assert fold(lambda x: x + torch.ones_like(x), X, dims=BATCH)[0] == 0
    assert fold(lambda x: x + torch.arange(x.shape[0])[:, None, None], X, dims=BATCH)[0] == 0


def test_random_calls_stay() -> None:
    program = trace_function(lambda x: x + torch.rand(6) + F.dropout(torch.ones(6), 0.5, True), X)
    apply(FoldConstants(), program)
    assert {"aten.rand", "aten.dropout"} <= set(operators(program))


def test_what_would_grow_stays_a_call() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        return x * torch.full((4, 6), 2.0)

    assert fold(function, X, small=95)[0] == 0
    count, _, context = fold(function, X, small=96)
    assert count == 1
    _, program, context = fold(function, X, small=0)
    (remark,) = context.remarks.of("fold-constants", "missed")
    assert "96 bytes" in remark.message and operators(program) == ["aten.full", "aten.mul.Tensor"]


def test_before_an_expand_that_grows_the_rest_folds() -> None:
    table = torch.randn(6)
    _, program, _ = fold(lambda x: (x + 1, (table * 2).expand(1000, 6)), X, small=0)
    assert sorted(operators(program)) == ["aten.add.Tensor", "aten.expand"]


def test_a_tied_weight_is_not_stored_twice() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(6, 6))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.table + x @ (self.table * 2)

    count, program, context = fold(Tied(), X, small=0)
    assert count == 0 and list(program.weights()) == ["table"]
    assert "in place of 0" in context.remarks.of("fold-constants", "missed")[0].message
    assert fold(lambda x: x @ (torch.ones(6, 6) * 2), X)[0] == 1


def test_a_transposed_weight_of_a_product_stays_since_bits_would_change() -> None:
    weight = torch.randn(64, 6)
    count, program, context = fold(lambda x: x @ weight.t(), X, max_growth=4)
    assert count == 0 and operators(program)[-2:] == ["aten.t", "aten.matmul"]
    assert "another order" in context.remarks.of("fold-constants", "missed")[0].message


def test_a_transposed_weight_of_an_elementwise_operator_folds() -> None:
    weight = torch.randn(6, 4)
    count, program, _ = fold(lambda x: x + weight.t(), X)
    assert count == 1 and operators(program) == ["aten.add.Tensor"]


def test_a_weight_made_of_parts_folds() -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 5, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x)

    _, program, _ = fold(Normed().eval(), X)
    assert operators(program) == ["aten.conv1d"]
    assert sorted(list(t.shape) for t in program.weights().values()) == [[5], [5, 4, 3]]


class Quantized(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight, limits = self.layer.weight, (-127, 127, torch.int8)
        scales, zeros = torch.full((8,), 2.0**-8), torch.zeros(8, dtype=torch.int64)
        q = quantized.quantize_per_channel(weight, scales, zeros, 0, *limits)
        return F.linear(x, quantized.dequantize_per_channel(q, scales, zeros, 0, *limits), self.layer.bias)


def test_a_quantized_weight_becomes_integers_and_is_not_folded_back() -> None:
    count, program, _ = fold(Quantized(), X)
    assert count == 3 and operators(program) == ["quantized_decomposed.dequantize_per_channel", "aten.linear"]
    stored = program.weights()["layer.weight_quantized"]
    assert stored.dtype is torch.int8 and "layer.weight" not in program.weights()
