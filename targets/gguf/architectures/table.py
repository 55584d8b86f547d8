"""The architectures of llama.cpp that graphs are written as: what each one computes, as a table.

The source of every row is `src/models/NAME.cpp` of llama.cpp, its loading of hyperparameters and tensors and its graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

#: Whether a file has a tensor: never, only where the model has it, always (zeros, or a copy, where the model has none), or always and the
#: model too.
Presence = Literal["never", "optional", "always", "needed"]


@dataclass(frozen=True)
class Architecture:
    """One architecture. `norm` is its kind of norm, `after`: norms follow the sums (BERT) instead of preceding what is added.

    `rope`: `pairs` turns dimensions (2k, 2k + 1), `halves` (k, k + width / 2); `partial`: fewer dimensions than a head has may
    turn; `rope_table`: frequencies may be any, by a tensor of factors. `fused`: queries, keys and values are one tensor.
    `grouped`: heads may share keys. `wide`: heads need not fill the width of the model. `varied`: layers may differ in size, and lack
    a part; `alike`: they may not, as another row takes them; else the smaller are filled up with zeros. `biases`: presence by group: attention (queries, keys, values), output (of the attention), network, norm, head.
    `parallel`: whether attention and network read the stream side by side: never, `one norm` for both, `two norms`, or `either`
    of sequential and two norms. `output`: presence of a weight of the logits; `tied`: it is the table of tokens, whose rows are multiplied
    by the root of their width where they are looked up.
    """

    name: str
    norm: Literal["rms", "layer"]
    activation: str
    gated: bool
    biases: Mapping[str, Presence]
    direction: Literal["causal", "full"] = "causal"
    after: bool = False
    rope: Literal["", "pairs", "halves"] = ""
    partial: bool = False
    rope_table: bool = False
    positions: Presence = "never"
    types: Presence = "never"
    embedding_norm: bool = False
    alibi: bool = False
    fused: bool = False
    grouped: bool = True
    wide: bool = False
    varied: bool = False
    alike: bool = False
    query_norm: bool = False
    parallel: Literal["never", "one norm", "two norms", "either"] = "never"
    output: Literal["never", "optional", "always", "tied"] = "optional"


def _biases(attention: Presence, output: Presence, network: Presence, norm: Presence, head: Presence = "never") -> dict[str, Presence]:
    return {"attention": attention, "output": output, "network": network, "norm": norm, "head": head}


_NONE = _biases("never", "never", "never", "never")
_ANY = _biases("optional", "optional", "optional", "optional")
_ALL = _biases("always", "always", "always", "always")
_LLAMA = Architecture(
    "llama", "rms", "silu", True, {**_ANY, "norm": "never"}, rope="pairs", partial=True, rope_table=True, wide=True, alike=True
)
_BERT = Architecture(
    "bert",
    "layer",
    "gelu_tanh",
    False,
    _ALL,
    direction="full",
    after=True,
    positions="always",
    types="always",
    embedding_norm=True,
    grouped=False,
    output="never",
)

#: In the order in which they are tried: the narrower before the wider.
ARCHITECTURES = (
    Architecture("qwen3", "rms", "silu", True, _NONE, rope="halves", query_norm=True, wide=True),
    Architecture("qwen2", "rms", "silu", True, {**_NONE, "attention": "needed"}, rope="halves", alike=True),
    _LLAMA,
    replace(_LLAMA, name="deci", alike=False, varied=True),
    Architecture("gemma", "rms", "gelu_tanh", True, _NONE, rope="halves", wide=True, output="tied"),
    Architecture("gpt2", "layer", "gelu_tanh", False, _ALL, positions="always", fused=True),
    Architecture("mpt", "layer", "gelu_tanh", False, _ANY, positions="optional", alibi=True, fused=True),
    Architecture("starcoder2", "layer", "gelu_tanh", False, _ALL, rope="halves"),
    Architecture(
        "phi2", "layer", "gelu_tanh", False, {**_ALL, "head": "always"}, rope="halves", partial=True, parallel="one norm", output="always"
    ),
    Architecture(
        "gptneox",
        "layer",
        "gelu_tanh",
        False,
        _ALL,
        rope="halves",
        partial=True,
        fused=True,
        grouped=False,
        parallel="either",
        output="always",
    ),
    Architecture(
        "stablelm",
        "layer",
        "silu",
        True,
        {**_NONE, "attention": "optional", "norm": "always"},
        rope="halves",
        partial=True,
        output="always",
    ),
    _BERT,
    replace(
        _BERT,
        name="nomic-bert",
        activation="silu",
        gated=True,
        biases=_biases("optional", "optional", "never", "always"),
        positions="never",
        rope="halves",
        fused=True,
    ),
)
