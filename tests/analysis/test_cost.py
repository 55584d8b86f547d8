"""Parameters, bytes and multiply-accumulates against closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgecc.analysis.cost import cost
from edgecc.ir.capture import trace
from edgecc.ir.signature import Dim
from edgecc.testing import trace_function


@pytest.mark.parametrize(
    ("module", "shape", "macs"),
    [
        (nn.Linear(6, 5), (2, 3, 6), 2 * 3 * 6 * 5),
        (nn.Conv2d(4, 8, 3, stride=2, padding=1), (1, 4, 8, 8), 8 * 4 * 4 * 4 * 9),
        (nn.Conv2d(4, 8, 3, groups=4), (1, 4, 6, 6), 8 * 4 * 4 * 1 * 9),
        (nn.ConvTranspose2d(4, 8, 2, stride=2), (1, 4, 3, 3), 4 * 9 * 8 * 4),
        (nn.Conv1d(3, 5, 4), (2, 3, 10), 2 * 5 * 7 * 3 * 4),
        (nn.LSTM(6, 4, batch_first=True), (2, 7, 6), 2 * 7 * (6 * 16 + 4 * 16)),
        (nn.ReLU(), (3, 3), 0),
    ],
)
def test_macs_of_a_layer(module, shape, macs):
    assert cost(trace(module, (torch.ones(shape),))).macs == macs


def test_macs_of_attention_count_both_products():
    q, k = torch.ones(2, 3, 5, 8), torch.ones(2, 3, 7, 8)
    assert cost(trace_function(lambda q, k: F.scaled_dot_product_attention(q, k, k), q, k)).macs == 2 * 3 * 5 * 7 * (8 + 8)


def test_a_dynamic_size_counts_as_in_the_example():
    program = trace(nn.Linear(6, 5), (torch.ones(3, 6),), dims={"input": {0: Dim("batch", 1, 9)}})
    assert cost(program).macs == 3 * 6 * 5


def test_a_tied_weight_counts_once_and_bytes_follow_the_dtype():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.ones(10, 4, dtype=torch.float16))

        def forward(self, i):
            return F.linear(F.embedding(i, self.table), self.table)

    found = cost(trace(Tied(), (torch.arange(3),)))
    assert (found.parameters, found.bytes) == (40, 80)
    assert found.ops == {"aten.embedding": 1, "aten.linear": 1}
