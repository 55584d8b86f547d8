"""canonicalize: what computes nothing goes, each operator has one spelling, and every bit stays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from edgecc.ir.program import Program
from edgecc.ir.signature import Dim
from edgecc.passes.canonicalize import Canonicalize
from edgecc.testing import apply, operators, trace_function

BATCH = {"x": {0: Dim("batch", 1, 8)}}
X = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))
IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def canonical(function: Callable[..., Any], *inputs: torch.Tensor, dims: Any = None) -> Program:
    """Trace, canonicalize, check that every bit stays and that a second run finds nothing."""
    program = trace_function(function, *inputs, dims=dims)
    before = program(*inputs)
    apply(Canonicalize(), program)
    for a, b in zip(before, program(*inputs), strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)
    assert apply(Canonicalize(), program)[0] == 0
    return program


NOTHING: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "dropout that is off": lambda x: F.dropout(x, 0.5, False),
    "a cast to the same dtype": lambda x: x.float(),
    "a move to the same device": lambda x: x.to("cpu"),
    "clone": lambda x: x.clone(),
    "contiguous of a contiguous tensor": lambda x: x.contiguous(),
    "a view of the same shape": lambda x: x.view(x.shape[0], 4, 6),
    "expand to the same shape": lambda x: x.expand(-1, 4, 6),
    "a full slice": lambda x: x[:, 0:4],
    "repeat by one": lambda x: x.repeat(1, 1, 1),
    "padding by nothing": lambda x: F.pad(x, (0, 0)),
    "two transposes": lambda x: x.transpose(1, 2).transpose(1, 2),
    "a cycle of permutes": lambda x: x.permute(1, 2, 0).permute(2, 0, 1),
    "unsqueeze and squeeze": lambda x: x.unsqueeze(2).squeeze(2),
    "flatten and unflatten": lambda x: x.flatten(1).unflatten(1, (4, 6)),
    "a wider dtype and back": lambda x: x.double().float(),
    "times one": lambda x: x * 1.0,
    "minus zero": lambda x: x - 0,
    "negated twice": lambda x: x.neg().neg(),
    "a concatenation of one": lambda x: torch.cat([x], 1),
}


@pytest.mark.parametrize("dims", [None, BATCH], ids=["static", "dynamic"])
@pytest.mark.parametrize("name", NOTHING)
def test_what_computes_nothing_is_removed(name: str, dims: Any) -> None:
    program = canonical(lambda x: NOTHING[name](x) + 1, X, dims=dims)
    assert [o for o in operators(program) if not o.startswith("aten.sym_size")] == ["aten.add.Tensor"]


STAYS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], str]] = {
    "plus zero, which turns -0.0 into 0.0": (lambda x: x + 0.0, "aten.add.Tensor"),
    "minus -0.0": (lambda x: x - (-0.0), "aten.sub.Tensor"),
    "a cast that rounds and back": (lambda x: x.half().float(), "aten.to.dtype"),
    "a contiguous copy of a permuted tensor": (lambda x: x.transpose(1, 2).contiguous().sum(1), "aten.contiguous"),
    "a slice that is not full": (lambda x: x[:, 1:4], "aten.slice.Tensor"),
    "padding that moves": (lambda x: F.pad(x, (1, -1)), "aten.pad"),
    "expand that repeats": (lambda x: x[:, :1].expand(-1, 4, 6), "aten.expand"),
    "a transpose": (lambda x: x.transpose(1, 2), "aten.permute"),
}


@pytest.mark.parametrize("name", STAYS)
def test_what_changes_bits_or_layout_stays(name: str) -> None:
    function, operator = STAYS[name]
    assert operator in operators(canonical(function, X))


def test_dropout_that_is_on_in_eval_mode_stays_and_is_remarked() -> None:
    program = trace_function(lambda x: F.dropout(x, 0.5, True), X)
    count, context = apply(Canonicalize(), program)
    assert count == 0 and operators(program) == ["aten.dropout"]
    (remark,) = context.remarks.of("canonicalize", "missed")
    assert "random" in remark.message


SPELLINGS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], list[str]]] = {
    "flatten": (lambda x: x.flatten(1), ["aten.reshape"]),
    "view": (lambda x: x.view(-1, 24), ["aten.reshape"]),
    "transpose": (lambda x: x.transpose(-1, -2), ["aten.permute"]),
    "mT": (lambda x: x.mT, ["aten.permute"]),
    "movedim": (lambda x: x.movedim(0, -1), ["aten.permute"]),
    "relu6": (lambda x: F.relu6(x), ["aten.clamp"]),
    "hardtanh": (lambda x: F.hardtanh(x), ["aten.clamp"]),
    "clamp at zero": (lambda x: x.clamp(min=0), ["aten.relu"]),
    "clamp_max": (lambda x: torch.clamp_max(x, 1.0), ["aten.clamp"]),
    "square": (lambda x: x.square(), ["aten.pow.Tensor_Scalar"]),
    "bmm": (lambda x: torch.bmm(x, x.mT), ["aten.permute", "aten.matmul"]),
    "adaptive pooling to one": (lambda x: F.adaptive_avg_pool1d(x, 1), ["aten.mean.dim"]),
    "constant padding": (lambda x: torch.constant_pad_nd(x, [1, 2]), ["aten.pad"]),
    "type_as": (lambda x: x.double().type_as(x) + 1, ["aten.add.Tensor"]),
    "three reshapes": (lambda x: x.view(-1, 6).view(-1, 2, 12).flatten(1), ["aten.reshape"]),
    "two permutes": (lambda x: x.permute(1, 2, 0).transpose(0, 1), ["aten.permute"]),
    "transpose, contiguous, view": (lambda x: x.transpose(1, 2).contiguous().view(x.shape[0], 24), ["aten.permute", "aten.reshape"]),
    "an expanded operand": (lambda x: x / x[:, :1].expand_as(x), ["aten.slice.Tensor", "aten.div.Tensor"]),
    "relu of relu": (lambda x: F.relu(F.relu(x)), ["aten.relu"]),
    "a dead call": (lambda x: (x.sin(), x.cos())[1], ["aten.cos"]),
}


@pytest.mark.parametrize("dims", [None, BATCH], ids=["static", "dynamic"])
@pytest.mark.parametrize("name", SPELLINGS)
def test_each_operator_has_one_spelling(name: str, dims: Any) -> None:
    function, expected = SPELLINGS[name]
    program = canonical(function, X, dims=dims)
    assert [o for o in operators(program) if not o.startswith("aten.sym_size")] == expected


def test_arguments_are_positional_without_defaults_and_dims_count_from_the_front() -> None:
    program = canonical(lambda x: torch.ops.aten.softmax.int(self=x, dim=-1, dtype=None), X)
    (call,) = program.calls()
    assert call.args[1:] == (2,) and call.kwargs == {}


def test_a_lone_dynamic_size_of_a_reshape_is_minus_one() -> None:
    program = canonical(lambda x: x.view(x.shape[0], 2, 12), X, dims=BATCH)
    (call,) = program.calls()
    assert list(call.args[1]) == [-1, 2, 12]
    shorter = torch.randn(5, 4, 6)
    assert torch.equal(program(shorter)[0], shorter.view(5, 2, 12))


def test_two_dynamic_sizes_stay_symbolic() -> None:
    dims = {"x": {0: Dim("batch", 1, 8), 1: Dim("seq", 1, 8)}}
    program = canonical(lambda x: x.view(x.shape[0], x.shape[1], -1, 3), X, dims=dims)
    (reshape,) = program.calls(torch.ops.aten.reshape.default)
    assert [s if isinstance(s, int) else s.name.startswith("sym_size") for s in reshape.args[1]] == [True, True, 2, 3]
    other = torch.randn(3, 5, 6)
    assert torch.equal(program(other)[0], other.view(3, 5, 2, 3))


@pytest.mark.parametrize("dims", [None, BATCH], ids=["static", "dynamic"])
@pytest.mark.parametrize(("kernel", "pads"), [(3, 0), (4, 1)])
def test_same_padding_becomes_numbers(kernel: int, pads: int, dims: Any) -> None:
    weight = torch.randn(5, 3, kernel, kernel)
    program = canonical(lambda x: F.conv2d(x, weight, padding="same"), IMAGE, dims=dims)
    assert operators(program) == ["aten.pad"] * pads + ["aten.conv2d"]
    larger = torch.randn(3, 3, 8, 8)
    if dims:
        # 1e-5: one float32 sum over 48 products, in another order for another batch
        torch.testing.assert_close(program(larger)[0], F.conv2d(larger, weight, padding="same"), rtol=1e-5, atol=1e-5)


def test_an_input_that_is_returned_as_it_is_stays_an_output() -> None:
    program = canonical(lambda x: x.clone(), X)
    assert program.calls() == [] and program.outputs() == tuple(program.inputs())


def test_layouts_are_kept_where_memory_is_read() -> None:
    program = trace_function(lambda x: x.transpose(1, 2).contiguous().as_strided((4,), (3,)), X)
    assert apply(Canonicalize(), program)[0] == 0
