"""Tasks: every form of data, and the user's own errors with their place."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from edgecc.errors import UsageError
from edgecc.training.task import Item, Task, seeded

BATCHES = [(torch.full((2,), float(i)), i) for i in range(6)]


def targets(task: Task) -> list[object]:
    return [item.target for item in task.batches(task.open())]


@pytest.mark.parametrize(
    "given",
    [
        BATCHES,
        {"data": BATCHES},
        lambda: BATCHES,
        lambda: {"data": BATCHES},
        {"data": lambda: iter(BATCHES)},
        lambda: iter(BATCHES),
        torch.utils.data.DataLoader(BATCHES, batch_size=None),
    ],
)
def test_every_form_gives_the_batches(given):
    assert sorted(map(int, targets(Task(given)))) == [0, 1, 2, 3, 4, 5]


def test_an_item_without_a_target_is_inputs():
    x = torch.zeros(3)
    assert [i.target for i in Task(None).batches(Task([x, {"x": x}]).open())] == [None, None]
    assert Item(x).inputs is x


def test_a_list_comes_in_an_order_of_the_seed():
    def order(seed, epoch):
        with seeded(seed, epoch):
            return targets(Task(BATCHES))

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(0, 0)), tuple(order(0, 1)), tuple(order(1, 0))}) == 3


def test_a_seed_reaches_every_generator_and_leaves_none_changed():
    def draw():
        return random.random(), np.random.rand(), float(torch.rand(()))

    def inside():
        with seeded(3, 1):
            return draw()

    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    assert inside() == inside()
    assert random.getstate() == states[0] and np.array_equal(np.random.get_state()[1], states[1])
    assert torch.equal(torch.get_rng_state(), states[2])


def failing():
    yield BATCHES[0]
    raise KeyError("images")


def broken():
    raise OSError("no such file")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (failing, "own failed at batch 1: KeyError: 'images'"),
        (broken, "own failed: OSError: no such file"),
        ({"data": broken}, "own failed: OSError"),
        (3, "own gives int, want batches"),
        ({"loss": len}, "own gives NoneType, want batches"),
        ({"data": BATCHES, "loss": 3}, "a loss that is int"),
        (torch.zeros(4), "own gives Tensor, want batches"),
    ],
)
def test_what_is_no_data_is_named(given, message):
    with pytest.raises(UsageError, match=message):
        targets(Task(given, "own"))
