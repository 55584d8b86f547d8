"""Spellings drawn at random of models that llama.cpp has, each with the name of a change to it."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from tests.targets.gguf.decoders import Spelling
from tests.targets.gguf.mutations import MUTATIONS

_ANY, _LAYER = {"rope": ("halves", "pairs", "complex"), "bias": (False, True)}, {"norm": ("layer",), "norm_bias": (True, False)}
_GELU = {**_LAYER, "activation": ("gelu_tanh",), "gated": (False,), "fused_gate": (False,)}
#: What is drawn for families of models that llama.cpp has.
FAMILIES: dict[str, dict[str, tuple[Any, ...]]] = {
    "llama": {**_ANY, "bend": (0.0, 2.0), "rope_width": (0, 4), "qkv_bias": (False, True)},
    "qwen3": {**_ANY, "bias": (False,), "query_norm": (True,)},
    "gemma": {**_ANY, "bias": (False,), "activation": ("gelu_tanh",), "tied": (True,)},
    "gpt2": {**_GELU, "bias": (False, True), "rope": ("",), "positions": (64,)},
    "mpt": {**_GELU, "bias": (False, True), "rope": ("",), "alibi": (True,)},
    "starcoder2": {**_GELU, **_ANY},
    "gptneox": {**_GELU, **_ANY, "rope_width": (0, 4), "parallel": ("", "two")},
    "phi2": {**_GELU, **_ANY, "rope_width": (0, 4), "parallel": ("one",), "head_bias": (False, True)},
    "stablelm": {**_LAYER, **_ANY, "bias": (False,), "rope_width": (0, 4), "qkv_bias": (False, True)},
}
_FILLS = ("gpt2", "mpt", "starcoder2", "gptneox", "phi2", "stablelm")  # heads fill the width


def drawn(seed: int) -> tuple[Spelling, str]:
    """A spelling of a model that llama.cpp has, and the name of a mutation."""
    r = random.Random(seed)
    family = r.choice(list(FAMILIES))
    head, layers = r.choice([4, 8, 12]), r.choice([1, 2, 2, 3])
    groups, kv = (1, 4) if family in ("gptneox", "mpt") else r.choice([(1, 4), (2, 2), (3, 2), (4, 1), (6, 1), (1, 6)])
    varied = family in ("llama", "starcoder2", "gpt2", "qwen3") and r.random() < 0.3
    kv_heads = tuple(r.choice([1, kv]) if varied else kv for _ in range(layers))
    heads = tuple(groups * k for k in kv_heads)
    lacks = varied and family == "llama" and layers > 1 and r.random() < 0.5
    common: dict[str, tuple[Any, ...]] = {
        "fused": (False, True),
        "base": (10000.0, 500000.0, 100.0),
        "stretch": (1.0, 1.0, 2.0, 0.5),
        "gqa": ("repeat", "expand", "flag", "strided"),
        "attention": ("sdpa", "matmul", "mask"),
        "scale": (0.0, 0.0, 0.2),
        "query_scale": (False, True),
        "fused_gate": (False, True),
        "tied": (False, True),
    }
    made = Spelling(
        width=groups * kv * head if family in _FILLS else r.choice([32, 48, 64]),
        heads=heads,
        kv_heads=kv_heads,
        head=head,
        ffn=tuple(r.choice([33, 64]) if varied else 64 for _ in range(layers)),
        missing=(r.choice(["attention", "network"]) + str(r.randrange(layers)),) if lacks else (),
        **{name: r.choice(values) for name, values in {**common, **FAMILIES[family]}.items()},
    )
    if made.rope_width >= head:
        made = replace(made, rope_width=0)
    if made.rope == "complex" and (made.rope_width or head) < 8:
        made = replace(made, rope="pairs")  # torch.export cannot trace so few complex numbers
    return made, "scaled embeddings" if family == "gemma" and r.random() < 0.5 else r.choice(["none", *MUTATIONS])
