"""What all layers of a file share, and where those of a model do not."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from edgecc.targets.gguf.architectures.difference import Difference
from edgecc.targets.gguf.architectures.table import Architecture
from edgecc.targets.gguf.recognition.description import Attention, LanguageModel, Layer, Norm


def unlike(layer: Layer, first: Layer, want: Architecture) -> Iterator[Difference]:
    """Where a layer is another than `first`, the first that has an attention."""
    a, b, as_first = layer.attention, first.attention, f"as in layer {first.index}"
    if a is not None and b is not None and a is not b:
        if a.width != b.width:
            yield Difference(a.node, f"heads of {a.width}", f"{b.width} {as_first}", layer.index)
        elif _turn(a) != _turn(b):
            yield Difference(a.node, _turn(a), f"{_turn(b)} {as_first}", layer.index)
        elif a.rope is not None and b.rope is not None and not a.rope.equals(b.rope):
            yield Difference(a.node, "other rotary frequencies", f"{_turn(b)} {as_first}", layer.index)
        elif not _same_slopes(a.mask.slopes, b.mask.slopes):
            yield Difference(a.node, "another bias by distance", f"the same {as_first}", layer.index)
        elif not want.varied and a.heads // a.kv_heads != b.heads // b.kv_heads:
            yield Difference(a.node, f"groups of {a.heads // a.kv_heads} heads", f"{b.heads // b.kv_heads} {as_first}", layer.index)
    if layer.parallel != first.parallel:
        yield Difference(
            layer.node, "side by side" if layer.parallel else "attention, then the network", f"the order {as_first}", layer.index
        )
    sizes = [
        (x.attention and (x.attention.heads, x.attention.kv_heads), x.feed_forward and x.feed_forward.up.shape[0]) for x in (layer, first)
    ]
    if want.alike and sizes[0] != sizes[1]:
        yield Difference(layer.node, f"heads and network {sizes[0]}", f"{sizes[1]} {as_first}", layer.index)


def eps_of_norms(model: LanguageModel) -> Iterator[Difference]:
    """The first norm of another eps than the others. 1e-6: of two spellings of one number, as float32 and as float64."""
    norms = list(_norms(model))
    for norm, layer in norms:
        if not math.isclose(norm.eps, norms[0][0].eps, rel_tol=1e-6):
            yield Difference(norm.node, f"eps {norm.eps:g}", f"{norms[0][0].eps:g} as in %{norms[0][0].node.name}", layer)
            return


def _turn(a: Attention) -> str:
    return "no rotary positions" if a.rope is None else f"rotary positions over {a.rope.width} dimensions"


def _same_slopes(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
    return a is b if a is None or b is None else torch.equal(a, b)


def _norms(model: LanguageModel) -> Iterator[tuple[Norm, int | None]]:
    """Every norm, with the layer that it is in."""
    for layer in model.layers:
        own = [layer.before_attention, layer.before_feed_forward, layer.after_attention, layer.after_feed_forward]
        own += [layer.attention.query_norm, layer.attention.key_norm] if layer.attention is not None else []
        for norm in own:
            if norm is not None:
                yield norm, layer.index
    for norm in (model.embeddings.norm, model.norm):
        if norm is not None:
            yield norm, None
