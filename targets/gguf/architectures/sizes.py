"""Sizes of the layers of a file, which are those of the model, or larger where all layers of an architecture share them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgecc.targets.gguf.architectures.table import Architecture
from edgecc.targets.gguf.recognition.description import LanguageModel

_EMPTY = 32  # zeros of a network that is missing: as many as a block of most formats holds


@dataclass(frozen=True)
class Sizes:
    """For each layer: heads, heads with keys of their own, and the width of the network; no heads where the attention is missing, but
    in the first layer, where llama.cpp takes that for a model without any.

    `width` is that of one head. What a layer of the model lacks is filled with zeros, which add nothing to the stream.
    """

    heads: Sequence[int]
    kv_heads: Sequence[int]
    network: Sequence[int]
    width: int


def sizes_of(model: LanguageModel, architecture: Architecture) -> Sizes:
    """An architecture whose layers may differ takes them as they are; else all get the largest."""
    attentions = [layer.attention for layer in model.layers]
    first = model.attentions[0]
    heads = [a.heads if a else 0 for a in attentions]
    kv_heads = [a.kv_heads if a else 0 for a in attentions]
    network = [layer.feed_forward.up.shape[0] if layer.feed_forward else _EMPTY for layer in model.layers]
    if architecture.varied:
        return Sizes([heads[0] or 1, *heads[1:]], [kv_heads[0] or 1, *kv_heads[1:]], network, first.width)
    shared = first.heads // first.kv_heads
    most = max(heads) if architecture.wide else model.width // first.width
    count = len(heads)
    return Sizes([most] * count, [most // shared] * count, [max(network)] * count, first.width)
