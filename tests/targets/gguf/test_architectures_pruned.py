"""Models that lost heads, channels, layers or rank to pruning compute the same in llama.cpp."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from edgecc.errors import UnsupportedError
from tests.targets.gguf.decoders import DECODERS, Spelling, decoder
from tests.targets.gguf.encoders import ENCODERS, encoder
from tests.targets.gguf.mutations import mutated
from tests.targets.gguf.parity_host import agrees, ids, lowered, parity, plan_of

_THREE = {"heads": (6, 6, 6), "kv_heads": (2, 2, 2), "ffn": (80, 80, 80)}
_LLAMA, _QWEN3 = DECODERS["fused"][0], replace(DECODERS["qwen3"][0], head=8)
_GPT2, _STARCODER2, _MPT = DECODERS["gpt"][0], DECODERS["rope_gelu"][0], DECODERS["alibi"][0]

#: Name: spelling, and the architecture that it is written as.
CASES: dict[str, tuple[Spelling, str]] = {
    "llama, all networks": (replace(_LLAMA, ffn=(50, 50)), "llama"),
    "llama, all heads": (replace(_LLAMA, heads=(3, 3), kv_heads=(1, 1)), "llama"),
    "llama, a network": (replace(_LLAMA, ffn=(80, 33)), "deci"),
    "llama, heads with their key": (replace(_LLAMA, heads=(6, 3), kv_heads=(2, 1)), "deci"),
    "llama, heads of each group": (replace(_LLAMA, heads=(6, 4)), "deci"),
    "llama, an attention": (replace(_LLAMA, **_THREE, missing=("attention1",)), "deci"),
    "llama, the first attention": (replace(_LLAMA, **_THREE, missing=("attention0",)), "deci"),
    "llama, a network whole": (replace(_LLAMA, **_THREE, missing=("network1",)), "deci"),
    "llama, the last network whole": (replace(_LLAMA, **_THREE, missing=("network2",)), "deci"),
    "llama, a layer": (replace(_LLAMA, **_THREE, missing=("attention1", "network1")), "llama"),
    "llama with biases": (replace(_LLAMA, bias=True, ffn=(80, 33), heads=(6, 3), kv_heads=(2, 1)), "deci"),
    "llama, turned in part": (replace(_LLAMA, rope_width=4, ffn=(80, 33)), "deci"),
    "qwen2": (replace(_LLAMA, qkv_bias=True, ffn=(80, 33)), "deci"),
    "qwen3": (replace(_QWEN3, heads=(6, 3), kv_heads=(2, 1), ffn=(80, 33)), "qwen3"),
    "gpt2": (replace(_GPT2, heads=(5, 2), kv_heads=(5, 2), ffn=(80, 33)), "gpt2"),
    "starcoder2": (replace(_STARCODER2, heads=(6, 3), kv_heads=(2, 1), ffn=(17, 80)), "starcoder2"),
    "starcoder2, one key": (replace(_STARCODER2, heads=(4, 4), kv_heads=(1, 1)), "starcoder2"),
    "mpt, networks": (replace(_MPT, ffn=(80, 33)), "mpt"),
    "mpt, heads": (replace(_MPT, heads=(2, 2), kv_heads=(2, 2)), "mpt"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_pruned_decoder_computes_the_same(name):
    spelling, architecture = CASES[name]
    found = parity(decoder(spelling), ids())
    assert found.architecture == architecture
    assert agrees(found), (found.error, found.agreement)


def test_slopes_that_are_no_series_of_the_heads_in_the_file_are_refused():
    """Zeros in the place of heads would turn the slopes of the others."""
    pruned = replace(_MPT, heads=(3, 3), kv_heads=(3, 3))
    with pytest.raises(UnsupportedError, match=r"mpt: layer 0, .* want slopes of a geometric series for 4 heads"):
        plan_of(lowered(mutated(pruned, "own slopes"), ids()))


def test_groups_that_do_not_divide_the_heads_of_the_width_are_refused():
    odd = replace(_STARCODER2, width=56, heads=(4, 4), kv_heads=(2, 2))
    with pytest.raises(UnsupportedError, match=r"groups of 2 heads that share a key, want groups that divide 7 heads"):
        plan_of(lowered(decoder(odd), ids()))


def test_a_pruned_encoder_keeps_its_embeddings():
    found = parity(encoder(ENCODERS["pruned"][0]), ids())
    assert found.architecture == "bert"
    assert agrees(found)


def test_two_layers_of_low_rank_are_one():
    model = decoder(_LLAMA)
    for module in [m for m in model.modules() if hasattr(m, "c") and isinstance(m.c, nn.Linear)]:
        u, s, v = torch.linalg.svd(module.c.weight.detach(), full_matrices=False)
        first, second = nn.Linear(v.shape[1], 10, bias=False), nn.Linear(10, u.shape[0], bias=False)
        first.weight, second.weight = nn.Parameter(v[:10] * s[:10, None]), nn.Parameter(u[:, :10].contiguous())
        module.c = nn.Sequential(first, second)
    found = parity(model, ids())
    assert found.architecture == "llama"
    assert agrees(found), (found.error, found.agreement)
