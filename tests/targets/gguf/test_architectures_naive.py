"""What a naive converter leaves out makes files that load and compute something else; these here do not."""

from __future__ import annotations

import pytest
import torch

from tests.targets.gguf.decoders import DECODERS, decoder
from tests.targets.gguf.huggingface_host import MODELS, build
from tests.targets.gguf.parity_host import Change, agrees, ids, parity

_WRONG = 0.9  # the likeliest token of more than a tenth of the places is another


def heads_in_halves(tensors, keys):
    """Rows as PyTorch has them, where llama.cpp turns (2k, 2k + 1)."""
    for name, value in list(tensors.items()):
        if name.endswith(("attn_q.weight", "attn_k.weight")):
            heads = value.view(-1, 4, 2, value.shape[-1])
            tensors[name] = heads.transpose(1, 2).reshape(value.shape)


def heads_in_pairs(tensors, keys):
    """Rows in the other order, where llama.cpp turns (k, k + n / 2)."""
    for name, value in list(tensors.items()):
        if name.endswith(("attn_q.weight", "attn_k.weight")):
            heads = value.view(-1, 2, 4, value.shape[-1])
            tensors[name] = heads.transpose(1, 2).reshape(value.shape)


def without(*endings: str) -> Change:
    def change(tensors, keys):
        for key in [k for k in keys if k.endswith(endings)]:
            del keys[key]
        for name in [n for n in tensors if n.endswith(endings)]:
            del tensors[name]

    return change


def with_key(ending: str, value) -> Change:
    def change(tensors, keys):
        (key,) = [k for k in keys if k.endswith(ending)]
        keys[key] = value

    return change


def transposed(tensors, keys):
    for name in [n for n in tensors if n.endswith("attn_output.weight")]:
        tensors[name] = tensors[name].T.contiguous()


def head_by_head(tensors, keys):
    """Fused rows of queries, keys and values of each head, as the weight has them, taken for all queries first."""
    for i in range(2):
        parts = [tensors[f"blk.{i}.attn_{part}.weight"].view(6, 8, -1) for part in "qkv"]
        rows = torch.stack(parts, 1).reshape(3, 48, -1)
        for part, own in zip("qkv", rows, strict=True):
            tensors[f"blk.{i}.attn_{part}.weight"] = own.contiguous()


def first_name(tensors, ending):
    return next(name for name in tensors if name.endswith(ending))


CASES: dict[str, tuple[str, Change]] = {
    "heads in halves for llama": ("fused", heads_in_halves),
    "heads in pairs for qwen2": ("qwen2_pairs", heads_in_pairs),
    "no base of the rotation": ("complex", without("rope.freq_base")),
    "no factors of frequencies": ("bent", without("rope_freqs.weight")),
    "no scaling of positions": ("stretched", without("rope.scaling.type", "rope.scaling.factor")),
    "rows head by head": ("head_major", head_by_head),
    "no slopes": ("alibi", without("max_alibi_bias")),
    "another eps": ("fused", with_key("rms_epsilon", 1.0)),
    "attention beside the network": ("parallel_two", with_key("use_parallel_residual", False)),
}


@pytest.mark.parametrize("name", CASES)
def test_the_naive_file_is_wrong_and_the_own_one_right(name):
    decoder_name, change = CASES[name]
    model, tokens = decoder(DECODERS[decoder_name][0]), ids(length=12, batch=3)
    assert parity(model, tokens, change=change).agreement <= _WRONG
    assert agrees(parity(model, tokens))


@pytest.mark.slow
def test_a_square_layer_of_gpt2_is_transposed():
    kind, config, _ = MODELS["gpt2"]
    model, tokens = build(kind, config), ids(batch=3)
    assert parity(model, tokens, change=transposed).agreement <= _WRONG
    assert agrees(parity(model, tokens))
