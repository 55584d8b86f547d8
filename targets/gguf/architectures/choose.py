"""Choose the architecture whose semantics equal a model's, or say where the nearest one begins to differ."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import fx

from edgecc.ir import provenance
from edgecc.targets.gguf.architectures.table import ARCHITECTURES, Architecture
from edgecc.targets.gguf.recognition.description import Attention, FeedForward, LanguageModel, Layer, Linear, Norm

#: Activations that differ by little, and what the model's becomes: erf by tanh, as ggml computes GELU.
NEAR = {("gelu", "gelu_tanh")}


@dataclass(frozen=True)
class Difference:
    """Where a model begins to differ from an architecture. `small`: its effect is that of an approximation."""

    node: fx.Node
    found: str
    wanted: str
    layer: int | None = None
    small: bool = False

    def __str__(self) -> str:
        place = "" if self.layer is None else f"layer {self.layer}, "
        return f"{place}%{self.node.name}: {self.found}, want {self.wanted}\n    {provenance.describe(self.node)}"


@dataclass(frozen=True)
class Choice:
    """`architecture` computes what the model does once the `approximations` are made; `refused`: the first difference of the others."""

    architecture: Architecture
    approximations: Sequence[Difference]
    refused: Sequence[tuple[Architecture, Difference]]


def choose(model: LanguageModel) -> Choice | Sequence[tuple[Architecture, Difference]]:
    """An architecture without a difference, else one with small ones alone, else the first difference of each, the nearest first.

    Of several, that for which the fewest biases are made up, then the narrowest.
    """
    found = [(architecture, list(differences(model, architecture))) for architecture in ARCHITECTURES]
    fitting = [entry for entry in found if all(d.small for d in entry[1])]
    if fitting:
        chosen, small = min(fitting, key=lambda entry: (len(entry[1]), _made_up(model, entry[0])))
        return Choice(chosen, small, [(a, ds[0]) for a, ds in found if ds and a is not chosen])
    counted = [([d for d in ds if not d.small], a) for a, ds in found]
    return [(a, large[0]) for large, a in sorted(counted, key=lambda entry: len(entry[0]))]


def _made_up(model: LanguageModel, want: Architecture) -> int:
    """How many groups of biases the file has and the first layer of the model has not."""
    layer = model.layers[0]
    norm, a, f = layer.before_attention or layer.after_attention, layer.attention, layer.feed_forward
    biases = {"norm": norm and norm.bias, "attention": a and a.query.bias, "output": a and a.output.bias, "network": f and f.up.bias}
    return sum(want.biases[group] == "always" and bias is None for group, bias in biases.items())


def differences(model: LanguageModel, want: Architecture) -> Iterator[Difference]:
    """Every difference, in the order of the graph, layers that are all alike only once."""
    yield from _embeddings(model, want)
    first = model.layers[0]
    for layer in model.layers:
        found = list(_layer(model, layer, want))
        yield from found
        if found:
            return
        yield from _unlike(layer, first, want)
    yield from _result(model, want)


def _embeddings(model: LanguageModel, want: Architecture) -> Iterator[Difference]:
    e = model.embeddings
    if e.scale != 1.0:
        yield Difference(e.node, f"the rows of tokens are multiplied by {e.scale:g}", "the rows themselves")
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
                other = layer.attention or layer.feed_forward
                assert other is not None
                yield Difference(other.node, "a layer without attention or without a network", "both", layer.index)
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
    if a.mask.slopes is not None and not (want.alibi and max_bias(a.mask.slopes) is not None):
        yield Difference(a.node, "a bias by distance (ALiBi)", "none" if not want.alibi else "slopes of a geometric series", layer)
    if a.kv_heads != a.heads and not want.grouped:
        yield Difference(a.node, f"{a.heads} heads that share {a.kv_heads} keys", "a key for each", layer)
    if not want.wide and (a.heads * a.width > model.width or model.width % a.width):
        yield Difference(a.node, f"{a.heads} heads of {a.width}", f"heads that fill the width {model.width}", layer)
    for norm in (a.query_norm, a.key_norm):
        if (norm is not None) != want.query_norm:
            yield Difference(norm.node if norm else a.node, "a norm of heads" if norm else "no norm of heads", "the other way", layer)
        elif norm is not None and (norm.kind != "rms" or norm.bias is not None):
            yield Difference(norm.node, "a norm of heads with a bias or a mean", "a plain rms norm", layer)
    yield from _rope(a, want, layer)
    yield from _bias([a.query, a.key, a.value], "attention", want, layer)
    yield from _bias([a.output], "output", want, layer)


def _rope(a: Attention, want: Architecture, layer: int) -> Iterator[Difference]:
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
    if want.name == "qwen2" and group == "attention" and not biased:
        yield Difference(layers[0].call, "queries, keys and values without a bias", "with one", layer)


def _parallel(layer: Layer, want: Architecture) -> Iterator[Difference]:
    first = layer.attention or layer.feed_forward
    assert first is not None
    if not layer.parallel:
        if want.parallel in ("one norm", "two norms"):
            yield Difference(first.node, "attention, then the network", "side by side", layer.index)
        return
    one = layer.before_attention is not None and layer.before_feed_forward is not None
    same = one and layer.before_attention.node is layer.before_feed_forward.node  # type: ignore[union-attr]
    if want.parallel == "never" or (want.parallel == "one norm" and not same):
        yield Difference(
            first.node, f"attention and network side by side, {'one norm' if same else 'two norms'}", want.parallel, layer.index
        )


def _unlike(layer: Layer, first: Layer, want: Architecture) -> Iterator[Difference]:
    """What all layers of a file share."""
    a, b = layer.attention, first.attention
    if a is not None and b is not None:
        if a.width != b.width or (a.rope is None) != (b.rope is None):
            yield Difference(a.node, f"heads of {a.width}", f"{b.width} as in layer 0", layer.index)
        elif a.rope is not None and b.rope is not None and not torch.allclose(a.rope.frequencies, b.rope.frequencies, rtol=1e-5):
            yield Difference(a.node, "other rotary frequencies than in layer 0", "the same", layer.index)
        elif a.mask.slopes is not None and b.mask.slopes is not None and not torch.equal(a.mask.slopes, b.mask.slopes):
            yield Difference(a.node, "other slopes than in layer 0", "the same", layer.index)
        elif (a.mask.slopes is None) != (b.mask.slopes is None) or (a.query_norm is None) != (b.query_norm is None):
            yield Difference(a.node, "another kind of attention than in layer 0", "the same", layer.index)
        elif (layer.parallel, a.heads // a.kv_heads) != (first.parallel, b.heads // b.kv_heads) and not want.varied:
            yield Difference(a.node, f"groups of {a.heads // a.kv_heads} heads", f"{b.heads // b.kv_heads} as in layer 0", layer.index)
    for norm in (layer.before_attention, layer.before_feed_forward, layer.after_attention, layer.after_feed_forward):
        reference = next(n for n in (first.before_attention, first.after_attention, first.before_feed_forward, norm) if n is not None)
        if norm is not None and norm.eps != reference.eps:
            yield Difference(norm.node, f"eps {norm.eps:g}", f"{reference.eps:g} as in layer 0", layer.index)
    sizes = [
        (x.attention and (x.attention.heads, x.attention.kv_heads), x.feed_forward and x.feed_forward.up.shape[0]) for x in (layer, first)
    ]
    if want.name in ("llama", "qwen2") and sizes[0] != sizes[1]:
        part = layer.attention or layer.feed_forward
        assert part is not None
        yield Difference(part.node, f"heads and network {sizes[0]}", f"{sizes[1]} as in layer 0", layer.index)


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


def geometric(frequencies: torch.Tensor) -> tuple[float, float] | None:
    """Base and factor where the k-th of n frequencies is base^(-k / n) / factor, None where they are no such series.

    The base is rounded to six digits, which is within the precision of tables in float32.
    """
    count = len(frequencies)
    factor = 1 / float(frequencies[0])
    factor = 1.0 if abs(factor - 1) < 1e-5 else float(f"{factor:.6g}")
    if count == 1:
        return 10000.0, factor
    base = float(frequencies[-1] * factor) ** (-count / (count - 1))
    base = float(f"{base:.6g}")
    wanted = torch.tensor([base ** (-k / count) / factor for k in range(count)], dtype=torch.float64)
    return (base, factor) if torch.allclose(frequencies, wanted, rtol=2e-5, atol=0) else None


def max_bias(slopes: torch.Tensor) -> float | None:
    """The `max_alibi_bias` of which ggml makes these slopes, None where there is none (Press et al. 2022, section 3)."""
    heads = len(slopes)
    low = 2 ** math.floor(math.log2(heads))
    bias = -math.log2(float(slopes[0])) * low if float(slopes[0]) > 0 else 0.0
    bias = float(f"{bias:.5g}")
    wanted = [2 ** (-bias * (h + 1) / low) if h < low else 2 ** (-bias / 2 / low * (2 * (h - low) + 1)) for h in range(heads)]
    return bias if bias > 0 and torch.allclose(slopes.double(), torch.tensor(wanted, dtype=torch.float64), rtol=1e-4) else None
