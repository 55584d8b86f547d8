"""decompose: rare operators are opened, and matrix products with weights become linear."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgecc.ir.program import Program
from edgecc.ir.signature import Dim
from edgecc.passes.decompose import Decompose
from edgecc.pipeline.context import PassContext
from edgecc.testing import apply, operators, trace_function

BATCH = {"x": {0: Dim("batch", 1, 8)}}
X = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))
IMAGE = torch.randn(2, 8, 4, 4, generator=torch.Generator().manual_seed(1))
WEIGHT = torch.randn(6, 5, generator=torch.Generator().manual_seed(2))
# float32 eps is 1.2e-7; the sums here have at most 64 terms, in another order
TOLERANCE = 1e-5


def decompose(function: Any, x: torch.Tensor, dims: Any = None) -> tuple[Program, PassContext]:
    """Trace and decompose, compare at two batch sizes where it is dynamic, and check that a second run finds nothing."""
    program = trace_function(function, x, dims=dims)
    _, context = apply(Decompose(), program)
    for sample in (x, torch.cat([x, x, x])) if dims else (x,):
        with torch.no_grad():
            expected = function(sample)
        for a, b in zip(program(sample), expected if isinstance(expected, tuple) else (expected,), strict=True):
            torch.testing.assert_close(a, b, rtol=TOLERANCE, atol=TOLERANCE)
    assert apply(Decompose(), program)[0] == 0
    return program, context


OPENED: dict[str, tuple[Callable[[torch.Tensor], Any], torch.Tensor, list[str]]] = {
    "chunk": (lambda x: torch.chunk(x, 2, -1), X, ["slice.Tensor"] * 2),
    "split with a rest": (lambda x: x.split(4, 2), X, ["slice.Tensor"] * 2),
    "split_with_sizes": (lambda x: x.split([1, 3], 1), X, ["slice.Tensor"] * 2),
    "unbind": (lambda x: x.unbind(1), X, ["select.int"] * 4),
    "pixel_shuffle": (lambda x: F.pixel_shuffle(x, 2), IMAGE, ["reshape", "permute", "reshape"]),
    "pixel_unshuffle": (lambda x: F.pixel_unshuffle(x, 2), IMAGE, ["reshape", "permute", "reshape"]),
    "channel_shuffle": (lambda x: F.channel_shuffle(x, 4), IMAGE, ["reshape", "permute", "reshape"]),
    "glu": (lambda x: F.glu(x, 1), X, ["slice.Tensor", "slice.Tensor", "sigmoid", "mul.Tensor"]),
    "instance_norm": (lambda x: F.instance_norm(x), IMAGE, ["group_norm"]),
    "addcmul": (lambda x: torch.addcmul(x, x, x, value=3), X, ["mul.Tensor", "mul.Tensor", "add.Tensor"]),
    "addcdiv": (lambda x: torch.addcdiv(x, x, x + 9), X, ["add.Tensor", "div.Tensor", "add.Tensor"]),
    "norm of order 2": (lambda x: x.norm(dim=-1), X, ["pow.Tensor_Scalar", "sum.dim_IntList", "sqrt"]),
    "norm of order 1": (lambda x: torch.linalg.vector_norm(x, 1, 2, True), X, ["abs", "sum.dim_IntList"]),
    "mish": (lambda x: F.mish(x), X, ["softplus", "tanh", "mul.Tensor"]),
    "diff": (lambda x: torch.diff(x, dim=1), X, ["slice.Tensor", "slice.Tensor", "sub.Tensor"]),
    "baddbmm": (lambda x: torch.baddbmm(x[:, :, :4], x, x.mT, beta=2.0), X, ["slice.Tensor", "mT", "matmul", "mul.Tensor", "add.Tensor"]),
    "einsum of rows and columns": (lambda x: torch.einsum("bij,bkj->bik", x, x), X, ["permute", "matmul"]),
    "einsum that sums alone": (lambda x: torch.einsum("bij,bkl->bik", x, x), X, ["sum.dim_IntList"] * 2 + ["reshape"] * 2 + ["matmul"]),
    "einsum that turns its result": (lambda x: torch.einsum("bij,bkj->bki", x, x), X, ["permute", "matmul", "permute"]),
    "einsum with a weight": (lambda x: torch.einsum("bij,jk->bik", x, WEIGHT), X, ["linear"]),
    "einsum with an ellipsis": (lambda x: torch.einsum("...j,jk", x, WEIGHT), X, ["linear"]),
    "einsum of one": (lambda x: torch.einsum("bij->bj", x), X, ["sum.dim_IntList"]),
    "matmul with a weight": (lambda x: x @ WEIGHT, X, ["linear"]),
    "linear of a turned weight": (lambda x: F.linear(x, WEIGHT.t()), X, ["linear"]),
}


@pytest.mark.parametrize("dims", [None, BATCH], ids=["static", "dynamic"])
@pytest.mark.parametrize("name", OPENED)
def test_rare_operators_are_opened(name: str, dims: Any) -> None:
    function, x, expected = OPENED[name]
    program, _ = decompose(function, x, dims)
    assert [o.removeprefix("aten.") for o in operators(program) if not o.startswith("aten.sym_size")] == expected


class Conv1D(nn.Module):
    """GPT-2's: the weight is [in, out], and rows are flattened by hand."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(inputs, outputs)), nn.Parameter(torch.randn(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight)
        return flat.view(*x.shape[:-1], self.weight.shape[1])


@pytest.mark.parametrize("dims", [None, BATCH, {"x": {0: Dim("batch", 1, 8), 1: Dim("seq", 1, 64)}}], ids=["static", "batch", "sequence"])
def test_a_conv1d_of_gpt2_is_one_linear_with_its_weight_turned(dims: Any) -> None:
    model = Conv1D(6, 5)
    program, _ = decompose(model, X, dims)
    assert [o for o in operators(program) if "sym" not in o and not o.startswith("mul")] == ["aten.linear"]
    weights = program.weights()
    assert sorted(weights) == ["bias", "weight_transposed"]
    assert torch.equal(weights["weight_transposed"], model.weight.detach().t())


def test_a_product_and_a_vector_become_linear_with_bias() -> None:
    class Dense(Conv1D):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.weight + self.bias

    program, _ = decompose(Dense(6, 5), X, BATCH)
    assert operators(program) == ["aten.linear"] and len(program.calls()[0].args) == 3


def test_a_vector_over_another_axis_is_no_bias() -> None:
    column = torch.randn(4, 1)
    program, _ = decompose(lambda x: x @ WEIGHT + column, X)
    assert operators(program) == ["aten.linear", "aten.add.Tensor"]


class TiedTable(nn.Module):
    def __init__(self, turned: bool) -> None:
        super().__init__()
        self.table, self.turned = nn.Parameter(torch.randn(6, 6)), turned

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = F.embedding(torch.arange(4), self.table)
        return (x + rows) @ (self.table.t() if self.turned else self.table)


def test_a_head_tied_to_its_embedding_reads_the_same_weight() -> None:
    program, _ = decompose(TiedTable(turned=True), X)
    assert "aten.linear" in operators(program) and list(program.weights()) == ["table"]


def test_a_weight_that_is_read_both_ways_is_not_stored_twice() -> None:
    program, context = decompose(TiedTable(turned=False), X)
    assert "aten.matmul" in operators(program) and list(program.weights()) == ["table"]
    assert "store it twice" in context.remarks.of("decompose", "missed")[0].message


def test_two_products_share_one_turned_weight() -> None:
    class Both(Conv1D):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x @ self.weight).relu() + x.exp() @ self.weight

    program, _ = decompose(Both(6, 5), X)
    assert operators(program).count("aten.linear") == 2 and list(program.weights()) == ["weight_transposed"]


REFUSED: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], str, str]] = {
    "three operands": (lambda x: torch.einsum("bij,jk,kl->bil", x, WEIGHT, WEIGHT.mT), "aten.einsum", "3 operands"),
    "a diagonal": (lambda x: torch.einsum("bii->bi", x[:, :, :4]), "aten.einsum", "diagonal"),
    "an axis that broadcasts": (lambda x: torch.einsum("bij,bij->bi", x, x[:, :1]), "aten.einsum", "broadcasts"),
    "a norm of order 3": (lambda x: torch.linalg.vector_norm(x, 3, -1), "aten.linalg_vector_norm", "order is 3"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_opened_stays_with_the_reason(name: str) -> None:
    function, operator, reason = REFUSED[name]
    program, context = decompose(function, X)
    assert operator in operators(program)
    assert any(reason in r.message for r in context.remarks.of("decompose", "missed"))


def test_a_product_of_two_activations_stays() -> None:
    program, _ = decompose(lambda x: x @ x.mT, X)
    assert operators(program) == ["aten.mT", "aten.matmul"]


def test_a_shuffle_with_two_dynamic_axes_stays_with_the_reason() -> None:
    dims = {"x": {0: Dim("batch", 1, 8), 2: Dim("height", 1, 8)}}
    program = trace_function(lambda x: F.pixel_shuffle(x, 2), IMAGE, dims=dims)
    count, context = apply(Decompose(), program)
    assert count == 0 and operators(program)[-1] == "aten.pixel_shuffle"
    assert "more than one" in context.remarks.of("decompose", "missed")[0].message


def test_writes_into_views_become_concatenations() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        y = x.clone()
        y[:, 1] = 0
        y[:, :, 2:4] = x[:, :, :2]
        return y

    program, _ = decompose(function, X)
    assert not [o for o in operators(program) if "scatter" in o or "fill" in o or "copy" in o]
