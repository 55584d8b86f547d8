"""Every spelling of a transformer computes the same in llama.cpp, in float32, as in PyTorch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from edgecc.ir.signature import Dim
from tests.targets.gguf.decoders import DECODERS, decoder
from tests.targets.gguf.parity_host import agrees, ids, parity


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_is_written_as_its_architecture_and_computes_the_same(name):
    spelling, architecture = DECODERS[name]
    found = parity(decoder(spelling), ids(), other=ids(seed=3))
    assert found.architecture == architecture
    assert agrees(found), (found.error, found.agreement)


@pytest.mark.parametrize(
    "name", ["fused", "qwen2", "qwen3", "gpt", "gpt_without_bias", "rope_gelu", "parallel_one", "layer_swiglu", "pruned"]
)
def test_a_tied_head_is_the_table_of_tokens(name):
    spelling, architecture = DECODERS[name]
    found = parity(decoder(replace(spelling, tied=True)), ids())
    assert found.architecture == architecture
    assert agrees(found), (found.error, found.agreement)


@pytest.mark.parametrize("name", ["fused", "complex", "matmul", "gpt", "alibi"])
def test_a_program_of_any_length_is_read_at_its_example(name):
    found = parity(decoder(DECODERS[name][0]), ids(), dims={"ids": {1: Dim("seq", 2, 48)}}, other=ids(length=30))
    assert agrees(found), (found.error, found.agreement)


@pytest.mark.parametrize("name", ["fused", "interleaved", "flag", "matmul", "parallel_two"])
def test_sequences_of_a_batch_are_told_from_tokens(name):
    found = parity(decoder(DECODERS[name][0]), ids(batch=2), other=ids(batch=2, seed=3))
    assert agrees(found), (found.error, found.agreement)


def test_a_batch_of_any_size_is_read_at_its_example():
    dims = {"ids": {0: Dim("batch", 1, 8), 1: Dim("seq", 2, 48)}}
    found = parity(decoder(DECODERS["interleaved"][0]), ids(batch=3), dims=dims, other=ids(batch=2, length=17))
    assert agrees(found), (found.error, found.agreement)


def test_tokens_need_no_axis_of_sequences():
    class Flat(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = decoder(DECODERS["fused"][0])

        def forward(self, ids):
            return self.inner(ids[None])[0]

    found = parity(Flat().eval(), ids()[0])
    assert agrees(found), (found.error, found.agreement)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["fused", "interleaved", "qwen3", "gpt"])
def test_a_model_in_half_precision_is_the_model_of_its_weights(name, dtype):
    found = parity(decoder(DECODERS[name][0]).to(dtype), ids(), wide=True)
    assert found.architecture == DECODERS[name][1]
    assert agrees(found), (found.error, found.agreement)
