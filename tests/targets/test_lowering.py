"""What lowering promises about the module it makes, and what it refuses up front."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgecc.errors import InternalError
from edgecc.ir.signature import Dim
from edgecc.targets.tvm_cpu.lowering import legalize, lower, refuse
from edgecc.targets.tvm_cpu.lowering.handler import Handler
from edgecc.targets.tvm_cpu.lowering.table import TABLE, merge
from edgecc.testing import trace_function
from tests.targets.lowering_host import check, compiled

tvm = pytest.importorskip("tvm")


def _refusals(function: Any, *inputs: torch.Tensor, dims: Any = None) -> list[str]:
    return [reason for node in trace_function(function, *inputs, dims=dims).calls() if (reason := refuse(node))]


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.head(self.embedding(ids))
        return result


def test_one_output_is_a_tuple_too() -> None:
    module = lower(trace_function(lambda x: x + 1, torch.zeros(2)))
    assert isinstance(module["main"].ret_ty, tvm.relax.TupleType)


def test_inputs_weights_and_repeated_values_can_be_outputs() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.arange(3.0))

        def forward(self, x: torch.Tensor, unused: torch.Tensor) -> tuple[torch.Tensor, ...]:
            y = x * 2
            return x, self.w, y, y

    check(Odd(), (torch.ones(3), torch.ones(2)))


def test_a_tied_weight_is_one_constant() -> None:
    text = lower(trace_function(_Tied(), torch.tensor([1, 2]))).script()
    assert text.count("metadata[") == 2 and 'metadata["ir.GenericConst"][0]' in text and 'metadata["ir.GenericConst"][1]' not in text


def test_bounds_stand_in_the_attributes_of_main() -> None:
    dims = {"x": {0: Dim("batch", 2, 8), 1: Dim("seq", 1)}}
    program = trace_function(lambda x: x * 2, torch.zeros(3, 5), dims=dims)
    batch, seq = (d.symbol for d in program.signature.dims)
    attributes = lower(program)["main"].attrs
    assert dict(attributes["tir_var_upper_bound"]) == {batch: 8}
    assert dict(attributes["tir_var_lower_bound"]) == {batch: 2, seq: 1}


def test_lowering_is_deterministic() -> None:
    torch.manual_seed(0)
    program = trace_function(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), torch.randn(1, 4, 8))
    first, second = lower(program), lower(program.clone())
    assert first.script() == second.script()


def test_legalize_leaves_no_relax_operator() -> None:
    program = trace_function(lambda x: F.relu(F.conv2d(x, torch.ones(2, 3, 3, 3))).softmax(1), torch.randn(1, 3, 8, 8))
    text = legalize(lower(program))["main"].script()
    assert "R.nn." not in text and "R.call_tir" in text


def test_int64_constants_keep_their_width() -> None:
    check(lambda x: x + torch.tensor(2**40), (torch.tensor([1, 2]),))


def test_an_index_outside_of_its_axis_reads_no_other_memory() -> None:
    program = trace_function(lambda w, t: F.embedding(t, w), torch.arange(8.0).view(4, 2), torch.tensor([0]))
    (row,) = compiled(program)(torch.arange(8.0).view(4, 2), torch.tensor([10**6]))
    assert row.tolist() == [[6.0, 7.0]]


def test_erf_gelu_is_accurate_to_float32() -> None:
    x = torch.linspace(-6, 6, 4001)
    (got,) = compiled(trace_function(lambda x: F.gelu(x), x))(x)
    exact = np.array([0.5 * v * math.erfc(-v / math.sqrt(2)) for v in x.double().tolist()])
    theirs = np.abs(F.gelu(x).double().numpy() - exact).max()  # of 8.9e-7, where 1 + erf cancels
    assert np.abs(got - exact).max() < theirs + np.spacing(np.float32(1)) / 2


def _sample(x: torch.Tensor) -> torch.Tensor:
    return x + torch.rand_like(x)


@pytest.mark.parametrize(
    ("function", "inputs", "reason"),
    [
        (lambda x: x[x > 0], (torch.randn(4),), "depends on the data"),
        (lambda x: x.nonzero(), (torch.randn(4),), "no lowering"),
        (_sample, (torch.randn(4),), "no lowering"),
        (lambda x: torch.linalg.inv(x), (torch.eye(3),), "no lowering"),
        (lambda x: x * 2, (torch.ones(2, dtype=torch.float16),), "float16 outside of products"),
        (lambda x: x.to(torch.bfloat16), (torch.ones(2),), "dtype bf16"),
        (lambda x: torch.fft.fft(x), (torch.ones(4),), "no lowering"),
        (lambda x, y: x**y, (torch.tensor([2]), torch.tensor([3])), "an integer power"),
        (lambda x, i: x.repeat_interleave(i, 0), (torch.ones(2), torch.tensor([1, 2])), "no lowering"),
        (lambda x: x[2:2], (torch.ones(4),), "a tensor without elements"),
        (lambda x: F.max_pool2d(x, 2, return_indices=True), (torch.randn(1, 1, 4, 4),), "result 1 is read"),
        (lambda x, t: x.scatter_reduce(0, t, x, "mean"), (torch.ones(3), torch.tensor([0, 1, 2])), "reduce='mean'"),
        (lambda q: F.scaled_dot_product_attention(q, q, q, dropout_p=0.5), (torch.randn(1, 2, 4),), "dropout"),
        (lambda x: x.sort().values, (torch.tensor([True, False]),), "sorting of bools"),
        (lambda x: F.max_pool2d(x, 2), (torch.ones(1, 1, 4, 4, dtype=torch.int64),), "pooling of integers"),
    ],
)
def test_what_cannot_be_lowered_is_refused_with_the_reason(function: Any, inputs: tuple[torch.Tensor, ...], reason: str) -> None:
    assert any(reason in found for found in _refusals(function, *inputs))


def test_what_can_be_lowered_is_not_refused() -> None:
    assert _refusals(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval(), torch.randn(1, 4, 8)) == []


def test_a_projected_lstm_is_refused() -> None:
    assert any("proj_size" in r for r in _refusals(nn.LSTM(4, 6, proj_size=3), torch.randn(5, 1, 4)))


def test_a_failing_handler_names_the_node() -> None:
    program = trace_function(lambda x: torch.linalg.inv(x), torch.eye(3))
    with pytest.raises(InternalError, match=r"lowering linalg_inv_ex|lowering \w+ = aten\.linalg_inv"):
        lower(program)


def test_two_handlers_for_one_operator_are_an_error() -> None:
    table = {torch.ops.aten.relu.default: Handler(lambda b, node, x: x)}
    with pytest.raises(InternalError, match=r"two handlers for aten\.relu"):
        merge([table, table])


def test_every_handler_is_reached_by_name() -> None:
    assert len(TABLE) > 350
    assert all(callable(h.lower) for h in TABLE.values())


def test_refusing_needs_no_tvm() -> None:
    import subprocess

    code = "import sys; import edgecc.targets.tvm_cpu.lowering as l; assert 'tvm' not in sys.modules; assert l.refuse"
    subprocess.run([sys.executable, "-c", code], check=True)
