"""Where a model begins to differ from an architecture of llama.cpp."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from edgecc.targets.gguf.architectures.difference import Difference
from edgecc.targets.gguf.architectures.series import geometric, max_bias
from edgecc.targets.gguf.architectures.table import Architecture
from edgecc.targets.gguf.architectures.uniform import eps_of_norms, unlike
from edgecc.targets.gguf.recognition.description import Attention, FeedForward, LanguageModel, Layer, Linear, Norm

#: Activations that differ by little, and what the model's becomes: erf by tanh, as ggml computes GELU.
NEAR = {("gelu", "gelu_tanh")}


def differences(model: LanguageModel, want: Architecture) -> Iterator[Difference]:
    """Every difference, in the order of the graph, layers that are all alike only once."""
    yield from _embeddings(model, want)
    first = next((layer for layer in model.layers if layer.attention is not None), None)
    if first is None:
        yield Difference(model.output, "no layer has an attention", "one in some")
        return
    for layer in model.layers:
        found = list(_layer(model, layer, want))
        yield from found
        if found:
            return
        yield from unlike(layer, first, want)
    yield from eps_of_norms(model)
    yield from _result(model, want)


def _embeddings(model: LanguageModel, want: Architecture) -> Iterator[Difference]:
    e = model.embeddings
    if want.output == "tied" and own_scale(model, want) != 1.0:
        yield Difference(e.node, f"the rows of tokens are multiplied by {e.scale:g}", f"{math.sqrt(model.width):g}, the root of the width")
    if e.positions is not None and want.positions == "never":
        yield Difference(e.node, f"learned positions @{e.positions.target}", "none")
    if e.positions is None and want.positions == "always":
        yield Difference(e.node, "no learned positions", "a table of them")
    if e.types is not None and want.types == "never":
        yield Difference(e.node, f"token types @{e.types.target}", "none")
    if (e.norm is not None) != want.embedding_norm:
        yield Difference(e.node, "no norm of the embeddings" if want.embedding_norm else "a norm of the embeddings", "the other way")


def _layer(model: LanguageModel, layer: Layer, want: Architecture) -> Iterator[Difference]:
    for before, after, part in (
        (layer.before_attention, layer.after_attention, layer.attention),
        (layer.before_feed_forward, layer.after_feed_forward, layer.feed_forward),
    ):
        if part is None:
            if not want.varied:
                yield Difference(layer.node, "a layer without attention or without a network", "both", layer.index)
            continue
        norm, unwanted = (after, before) if want.after else (before, after)
        if unwanted is not None and not (want.after and layer.parallel):
            yield Difference(unwanted.node, "a norm " + ("before" if want.after else "after the sum"), "none there", layer.index)
        if norm is None:
            yield Difference(part.node, "no norm", f"one {'after the sum' if want.after else 'before'}", layer.index)
        else:
            yield from _norm(norm, want, layer.index)
    if layer.attention is not None:
        yield from _attention(model, layer.attention, want, layer.index)
    if layer.feed_forward is not None:
        yield from _network(layer.feed_forward, want, layer.index)
    yield from _parallel(layer, want)


def _norm(norm: Norm, want: Architecture, layer: int | None) -> Iterator[Difference]:
    if norm.kind != want.norm:
        yield Difference(norm.node, f"{norm.kind} norm", f"{want.norm} norm", layer)
    elif norm.bias is not None and want.biases["norm"] == "never":
        yield Difference(norm.node, "a bias of the norm", "none", layer)


def _attention(model: LanguageModel, a: Attention, want: Architecture, layer: int) -> Iterator[Difference]:
    if a.mask.direction != want.direction:
        yield Difference(a.node, f"{a.mask.direction} attention", want.direction, layer)
    if a.width != a.value_width:
        yield Difference(a.node, f"heads of {a.width} with values of {a.value_width}", "the same", layer)
    if a.mask.slopes is not None and not (want.alibi and max_bias(a.mask.slopes, _heads(model, a, want)) is not None):
        wanted = f"slopes of a geometric series for {_heads(model, a, want)} heads" if want.alibi else "none"
        yield Difference(a.node, "a bias by distance (ALiBi)", wanted, layer)
    shared = a.heads // a.kv_heads
    if shared > 1 and not want.grouped:
        yield Difference(a.node, f"{a.heads} heads that share {a.kv_heads} keys", "a key for each", layer)
    if not want.wide and (a.heads * a.width > model.width or model.width % a.width):
        yield Difference(a.node, f"{a.heads} heads of {a.width}", f"heads that fill the width {model.width}", layer)
    elif _heads(model, a, want) % shared and a.kv_heads > 1:
        yield Difference(a.node, f"groups of {shared} heads that share a key", f"groups that divide {_heads(model, a, want)} heads", layer)
    for norm in (a.query_norm, a.key_norm):
        if (norm is not None) != want.query_norm:
            yield Difference(norm.node if norm else a.node, "a norm of heads" if norm else "no norm of heads", "the other way", layer)
        elif norm is not None and (norm.kind != "rms" or norm.bias is not None):
            yield Difference(norm.node, "a norm of heads with a bias or a mean", "a plain rms norm", layer)
    yield from _rope(a, want, layer)
    yield from _bias([a.query, a.key, a.value], "attention", want, layer)
    yield from _bias([a.output], "output", want, layer)


def _heads(model: LanguageModel, a: Attention, want: Architecture) -> int:
    """Heads of the file in the layer."""
    if want.varied:
        return a.heads
    return max(x.heads for x in model.attentions) if want.wide else model.width // a.width


def _rope(a: Attention, want: Architecture, layer: int) -> Iterator[Difference]:
    if want.rope and a.width % 2:
        yield Difference(a.node, f"heads of {a.width}", "an even number of dimensions", layer)
    if a.rope is None:
        if want.rope and not want.rope_table:
            yield Difference(a.node, "no rotary positions", "some", layer)
        return
    if not want.rope:
        yield Difference(a.node, f"rotary positions over {a.rope.width} dimensions", "none", layer)
    elif a.rope.width != a.width and not want.partial:
        yield Difference(a.node, f"{a.rope.width} of {a.width} dimensions turn", "all of them", layer)
    elif not want.rope_table and geometric(a.rope.frequencies) is None:
        yield Difference(a.node, "rotary frequencies that are no geometric series", "a base and a factor", layer)


def _network(f: FeedForward, want: Architecture, layer: int) -> Iterator[Difference]:
    if (f.gate is not None) != want.gated:
        yield Difference(f.node, "a gated network" if f.gate else "a network without a gate", "the other way", layer)
    if f.activation != want.activation:
        yield Difference(f.node, f.activation, want.activation, layer, small=(f.activation, want.activation) in NEAR)
    yield from _bias([x for x in (f.gate, f.up, f.down) if x is not None], "network", want, layer)


def _bias(layers: Sequence[Linear], group: str, want: Architecture, layer: int | None) -> Iterator[Difference]:
    biased = [x for x in layers if x.bias is not None]
    if biased and want.biases[group] == "never":
        yield Difference(biased[0].call, f"a bias of the {group}", "none", layer)
    if not biased and want.biases[group] == "needed":
        yield Difference(layers[0].call, f"no bias of the {group}", "one", layer)


def _parallel(layer: Layer, want: Architecture) -> Iterator[Difference]:
    if not layer.parallel:
        if want.parallel in ("one norm", "two norms"):
            yield Difference(layer.node, "attention, then the network", "side by side", layer.index)
        return
    one, other = layer.before_attention, layer.before_feed_forward
    same = one is not None and other is not None and one.node is other.node
    if want.parallel == "never" or (want.parallel == "one norm" and not same):
        yield Difference(
            layer.node, f"attention and network side by side, {'one norm' if same else 'two norms'}", want.parallel, layer.index
        )


def _result(model: LanguageModel, want: Architecture) -> Iterator[Difference]:
    if want.output == "never":
        if model.head is not None:
            yield Difference(model.head.call, "logits", "embeddings of tokens")
        if model.norm is not None:
            yield Difference(model.norm.node, "a norm of the result", "none")
        return
    if model.head is None:
        yield Difference(model.output, f"the result is no layer of {model.width} columns over the stream", "logits")
        return
    if model.norm is None:
        yield Difference(model.head.call, "no norm before the logits", "one")
    else:
        yield from _norm(model.norm, want, None)
    yield from _bias([model.head], "head", want, None)
    if model.head.shape[0] != model.vocabulary:
        yield Difference(model.head.call, f"{model.head.shape[0]} logits", f"{model.vocabulary}, as many as tokens")
    elif want.output == "tied" and not model.tied:
        yield Difference(model.head.call, "logits by a weight of their own", "by the table of tokens")


def own_scale(model: LanguageModel, want: Architecture) -> float:
    """What the rows of tokens in the file are multiplied by, beside what llama.cpp does; 1 up to the rounding of a float32."""
    own = model.embeddings.scale / (math.sqrt(model.width) if want.output == "tied" else 1.0)
    return 1.0 if math.isclose(own, 1.0, rel_tol=1e-6) else own
