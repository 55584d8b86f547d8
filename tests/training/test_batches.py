"""Batches of the user's: bound to the inputs, of any number of rows where the program takes them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from edgecc.errors import UsageError
from edgecc.ir.signature import Dim
from edgecc.testing import trace_function
from edgecc.training.batches import bind, check_pieces, forward, takes_all_at_once
from edgecc.training.task import Item
from tests.training.nets import mlp, numbers


class Mixed(nn.Module):
    """Rows that depend on one another."""

    def forward(self, x):
        return x - x.mean(0, keepdim=True)


class Fixed(nn.Module):
    """A literal size, as an exported reshape has it."""

    def forward(self, x):
        return x.reshape(2, 4, 2).sum(-1)


def test_arrays_dicts_and_tuples_are_bound():
    signature = trace_function(lambda a, b: a + b, numbers(1, 8), numbers(1, 8)).signature
    a, b = numbers(5, 8), numbers(5, 8, seed=1)
    for given in ((a, b), [a.numpy(), b.numpy()], {"b": b, "a": a}):
        found = bind(Item(given, np.arange(5)), signature)
        assert torch.equal(found.inputs[0], a) and torch.equal(found.inputs[1], b) and found.target.dtype == torch.int64


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (numbers(5, 7), r"x has size 7 at axis 1, want 8"),
        (numbers(5, 8).double(), "x is f64, want f32"),
        (numbers(8), r"x has shape \[8\]"),
        ({"y": numbers(5, 8)}, "inputs missing: "),
        ((numbers(5, 8), numbers(5, 8)), "2 inputs were given"),
        (object(), "is no tensor|is object"),
    ],
)
def test_inputs_that_do_not_fit_are_named(given, message):
    program = trace_function(lambda x: x + 1, numbers(1, 8))
    with pytest.raises(UsageError, match=message):
        bind(Item(given), program.signature)


def test_more_rows_than_a_dynamic_dimension_allows_may_be_trained_on():
    program = trace_function(lambda x: x + 1, numbers(2, 8), dims={"x": {0: Dim("batch", 1, 4)}})
    assert len(bind(Item(numbers(64, 8)), program.signature).inputs[0]) == 64


def test_independent_rows_go_through_at_once():
    program = trace_function(mlp(), numbers(1, 8))
    batch = bind(Item(numbers(6, 8)), program.signature)
    assert takes_all_at_once(program, batch)
    assert forward(program, batch.inputs, None)[0].shape == (6, 4)


@pytest.mark.parametrize("model", [Mixed(), Fixed()])
def test_other_programs_are_run_on_pieces_of_their_own_size(model):
    program = trace_function(model, numbers(2, 8))
    batch = bind(Item(numbers(6, 8)), program.signature)
    assert not takes_all_at_once(program, batch)
    want = torch.cat([model(piece) for piece in numbers(6, 8).split(2)])
    assert torch.equal(forward(program, batch.inputs, 2)[0], want)


def test_a_batch_that_is_not_made_of_whole_pieces_is_refused():
    program = trace_function(Fixed(), numbers(2, 8))
    with pytest.raises(UsageError, match="5 rows, want a multiple of 2"):
        check_pieces(bind(Item(numbers(5, 8)), program.signature), 2)


@pytest.mark.parametrize(("model", "all_at_once"), [(mlp(), True), (Mixed(), False)])
def test_fewer_rows_than_the_program_has_are_tried_too(model, all_at_once):
    program = trace_function(model, numbers(4, 8))
    assert takes_all_at_once(program, bind(Item(numbers(3, 8)), program.signature)) == all_at_once
