"""Orders and views: the same memory under other names, against what numpy finds in memory."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from edgecc.targets.tvm_cpu.layout.order import before, follow, plain, same_memory, through
from edgecc.targets.tvm_cpu.layout.views import view


def in_memory(array: np.ndarray, order: tuple[int, ...]) -> list[int]:
    return array.transpose(order).ravel().tolist()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((2, 6, 4, 5), (2, 6, 20)),
        ((2, 6, 4, 5), (2, 3, 2, 4, 5)),
        ((2, 6, 4, 5), (12, 20)),
        ((2, 12, 1), (6, 4)),
        ((2, 1, 6, 1), (1, 2, 2, 3)),
        ((6, 4), (4, 6)),
        ((5, 1, 1), (5,)),
    ],
)
def test_a_view_exists_where_and_only_where_numpy_finds_the_same_memory(old, new):
    pytest.importorskip("tvm", reason="Apache TVM is not installed")
    tensor = np.arange(np.prod(old)).reshape(old)
    for order in itertools.permutations(range(len(old))):
        memory = in_memory(tensor, order)
        free = [o for o in itertools.permutations(range(len(new))) if in_memory(tensor.reshape(new), o) == memory]
        found = view(order, old, new)
        assert (found in free) if free else found is None


def test_sizes_without_a_common_factor_can_be_viewed_in_the_plain_order_alone():
    assert view((0, 1), (6, 4), (4, 6)) == (0, 1)
    assert view((1, 0), (6, 4), (4, 6)) is None


def test_a_dynamic_size_is_a_factor_of_its_own():
    tirx = pytest.importorskip("tvm.tirx", reason="Apache TVM is not installed")
    batch = tirx.Var("batch", "int64")
    assert view((0, 2, 3, 1), (batch, 6, 4, 5), (batch, 2, 3, 4, 5)) == (0, 3, 4, 1, 2)
    assert view((0, 2, 3, 1), (batch, 6, 4, 5), (batch, 120)) is None
    assert view((0, 1, 2), (batch * 4, 3, 5), (batch, 4, 15)) == (0, 1, 2)
    assert view((1, 0, 2), (batch * 4, 3, 5), (batch, 4, 3, 5)) == (2, 0, 1, 3)


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
def test_a_transposed_tensor_is_the_same_memory(axes):
    tensor = np.arange(24).reshape(2, 3, 4)
    for order in itertools.permutations(range(3)):
        assert in_memory(tensor.transpose(axes), through(order, axes)) == in_memory(tensor, order)
        assert before(through(order, axes), axes) == order


def test_orders_that_differ_in_dimensions_of_one_element_are_the_same_memory():
    assert same_memory((0, 2, 3, 1), plain(4), (5, 8, 1, 1))
    assert same_memory((0, 2, 3, 1), plain(4), (5, 1, 8, 8))
    assert not same_memory((0, 2, 3, 1), plain(4), (5, 8, 2, 1))


def test_dimensions_lie_as_those_that_they_are_linked_to():
    assert follow((0, 2, 3, 1), {0: 0, 1: 1, 2: 2, 3: 3}, 4) == (0, 2, 3, 1)
    assert follow((0, 2, 3, 1), {1: 0}, 3) == (1, 2, 0)  # a bias [c, 1, 1], aligned as broadcasting does
    assert follow((0, 2, 3, 1), {0: 0, 1: 1}, 2) == (0, 1)  # a mean over the last two
    assert follow((1, 0), {0: 2, 1: 0}, 3) == (0, 1, 2)
