"""Permutations of trailing axes against torch's own permute."""

from __future__ import annotations

import itertools

import torch

from edgecc.rewrite import permutation

X = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
ALL = list(itertools.permutations(range(4)))


def test_an_order_moves_axes_as_torch_does() -> None:
    for axes in ALL:
        order = permutation.of_axes(axes)
        assert permutation.axes_of(order, 4) == list(axes)
        assert permutation.permuted(tuple(X.shape), order) == tuple(X.permute(axes).shape)


def test_composition_is_one_permute_after_the_other() -> None:
    for first, then in itertools.product(ALL, ALL):
        order = permutation.compose(permutation.of_axes(first), permutation.of_axes(then))
        assert torch.equal(X.permute(permutation.axes_of(order, 4)), X.permute(first).permute(then))


def test_the_inverse_undoes() -> None:
    for axes in ALL:
        order = permutation.of_axes(axes)
        assert permutation.compose(order, permutation.inverse(order)) == ()


def test_a_transposition_reads_the_same_for_every_rank() -> None:
    assert permutation.of_swap(1, 2, 3) == permutation.of_swap(2, 3, 4) == permutation.of_swap(-1, -2, 2) == (-1, -2)
