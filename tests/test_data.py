"""Seeded samples: sizes, ranges and repeatability."""

from __future__ import annotations

import torch
from torch import nn

from edgecc import data
from edgecc.ir.capture import trace
from edgecc.ir.signature import Dim
from edgecc.testing import trace_function


class Text(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.kinds = nn.Embedding(11, 4), nn.Embedding(2, 4)

    def forward(self, ids, kinds, mask):
        return (self.words(ids) + self.kinds(kinds.long())) * mask[..., None]


def text():
    one = torch.ones(2, 5, dtype=torch.int64)
    dims = {name: {0: Dim("batch", 1, 4), 1: Dim("seq", 1, 16)} for name in ("ids", "kinds", "mask")}
    return trace(Text(), (one, one.int(), one), dims=dims)


def test_integers_that_index_a_table_stay_inside_it():
    for ids, kinds, _ in data.samples(text(), seed=3, count=8):
        assert ids.min() >= 0 and ids.max() < 11 and kinds.max() < 2
        assert ids.dtype == torch.int64 and kinds.dtype == torch.int32


def test_a_mask_of_ones_becomes_a_prefix_of_ones():
    masks = [m for _, _, m in data.samples(text(), seed=3, count=3)]
    assert masks[0].all() and all(m[..., 0].all() for m in masks)
    assert not masks[2].all()


def test_dynamic_sizes_cover_the_example_the_smallest_and_odd_ones():
    assert [tuple(i.shape) for i, _, _ in data.samples(text(), seed=0, count=3)] == [(2, 5), (1, 1), (4, 8)]


def test_every_sample_fits_the_signature():
    program = text()
    for sample in data.samples(program, seed=0, count=5):
        program.signature.check(sample)


def test_the_same_seed_gives_the_same_samples_and_another_does_not():
    program = trace_function(lambda x: x + 1, torch.ones(4))
    a, b, c = (data.samples(program, seed=s, count=1)[0][0] for s in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)
