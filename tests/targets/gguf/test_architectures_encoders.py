"""Encoders give the same embeddings of every token in llama.cpp as in PyTorch."""

from __future__ import annotations

import pytest
import torch

from edgecc.errors import UnsupportedError
from tests.targets.gguf.encoders import _NOMIC, ENCODERS, Encoding, encoder
from tests.targets.gguf.parity_host import EXACT, TABLE, ids, lowered, parity, plan_of


def in_context(tensors, keys):
    keys[f"{keys['general.architecture']}.context_length"] = 64


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_is_written_as_its_architecture_and_computes_the_same(name):
    encoding, architecture = ENCODERS[name]
    mask = {"mask": torch.ones(2, 12, dtype=torch.int64)} if encoding.masked else {}
    found = parity(encoder(encoding), ids(batch=2), change=in_context, **mask)
    assert found.architecture == architecture
    assert found.cosine >= 0.99999
    assert found.error <= (TABLE if architecture == "bert" else EXACT)


def test_a_mask_that_hides_tokens_from_one_another_is_no_encoder():
    model = encoder(Encoding(_NOMIC, positions=0, masked=True))

    class Halves(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, ids):
            return self.inner(ids, torch.arange(ids.shape[1])[None] < 6)

    with pytest.raises(UnsupportedError, match=r"lets 36 of 66 pairs see tokens that come after|neither causal nor full"):
        plan_of(lowered(Halves().eval(), ids()))


def test_a_norm_after_that_of_the_last_layer_is_not_lost():
    """As nn.TransformerEncoder has it, whose layers norm their sums."""
    model = torch.nn.Sequential(encoder(ENCODERS["bert"][0]), torch.nn.LayerNorm(48))
    with pytest.raises(UnsupportedError, match=r"nearest is bert: %layer_norm_5: a norm of the result, want none"):
        plan_of(lowered(model.eval(), ids()))
