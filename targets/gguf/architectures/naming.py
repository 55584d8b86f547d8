"""The names of the tensors that llama.cpp looks for, and what of a model each one is made of."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import fx

from edgecc.targets.gguf.architectures.differences import own_scale
from edgecc.targets.gguf.architectures.series import geometric
from edgecc.targets.gguf.architectures.sizes import Sizes, sizes_of
from edgecc.targets.gguf.architectures.table import Architecture
from edgecc.targets.gguf.architectures.tensors import Piece, Tensor
from edgecc.targets.gguf.recognition.description import Attention, FeedForward, LanguageModel, Layer, Linear, Norm, rows_of

#: A factor of a frequency that leaves no angle at any position.
_STILL = 1e30


def tensors_of(model: LanguageModel, architecture: Architecture) -> list[Tensor]:
    """Every tensor that llama.cpp looks for, in the order of its layers."""
    sizes = sizes_of(model, architecture)
    scale = own_scale(model, architecture)
    factor = None if scale == 1.0 else torch.tensor(scale)
    found = [Tensor("token_embd.weight", (model.vocabulary, model.width), stored=model.embeddings.tokens, factor=factor)]
    found += _beside_tokens(model, architecture)
    found += _rope_factors(model, architecture, sizes.width)
    for layer in model.layers:
        found += _layer(layer, architecture, sizes, model.width)
    if model.norm is not None:
        found += _norm("output_norm", model.norm, architecture, model.width)
    if model.head is not None and (not model.tied or scale != 1.0 or architecture.output == "always"):
        found.append(_matrix("output", [Piece(model.head, *model.head.shape)]))
    if model.head is not None and architecture.biases["head"] == "always":
        found.append(_bias("output", [Piece(model.head, *model.head.shape)]))
    return found


def _beside_tokens(model: LanguageModel, architecture: Architecture) -> Iterator[Tensor]:
    e = model.embeddings
    if e.positions is not None:
        yield _table("position_embd.weight", e.positions, model.width)
    if e.types is not None:
        yield _table("token_types.weight", e.types, model.width)
    elif architecture.types == "always":
        yield Tensor("token_types.weight", (1, model.width), values=torch.zeros(1, model.width))
    if e.norm is not None:
        yield from _norm("token_embd_norm", e.norm, architecture, model.width)


def _table(name: str, stored: fx.Node, width: int) -> Tensor:
    return Tensor(name, (rows_of(stored), width), stored=stored)


def _rope_factors(model: LanguageModel, architecture: Architecture, width: int) -> Iterator[Tensor]:
    """What divides the frequencies of `rope.freq_base`, where they are no series of it over all dimensions."""
    rope = model.attentions[0].rope
    if not architecture.rope_table or (rope is not None and rope.width == width and geometric(rope.frequencies)):
        return
    turning = rope.frequencies if rope is not None else torch.empty(0, dtype=torch.float64)
    factors = torch.full((width // 2,), _STILL, dtype=torch.float64)
    factors[: len(turning)] = _plain_frequencies(width)[: len(turning)] / turning
    yield Tensor("rope_freqs.weight", (width // 2,), values=factors.float())


def _plain_frequencies(width: int) -> torch.Tensor:
    """Those of base 10000, which factors are relative to: [width / 2] f64."""
    return 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)


def _layer(layer: Layer, architecture: Architecture, sizes: Sizes, width: int) -> Iterator[Tensor]:
    block = f"blk.{layer.index}."
    if layer.attention is None and sizes.heads[layer.index]:
        yield from _no_attention(block, sizes.width, width)
    elif layer.attention is not None:
        norm = layer.after_attention if architecture.after else layer.before_attention
        assert norm is not None
        yield from _norm(block + ("attn_output_norm" if architecture.after else "attn_norm"), norm, architecture, width)
        yield from _attention(block, layer, layer.attention, architecture, sizes, width)
    if layer.feed_forward is None and layer.attention is not None:
        yield from _no_network(block, sizes.network[layer.index], width)
    elif layer.feed_forward is not None:
        norm = layer.after_feed_forward if architecture.after else layer.before_feed_forward
        assert norm is not None
        if architecture.parallel != "one norm":
            yield from _norm(block + ("layer_output_norm" if architecture.after else "ffn_norm"), norm, architecture, width)
        yield from _network(block, layer.feed_forward, architecture, sizes.network[layer.index], width)


def _no_attention(block: str, size: int, width: int) -> Iterator[Tensor]:
    """One head of zeros."""
    yield Tensor(f"{block}attn_norm.weight", (width,), values=torch.ones(width))
    for name, shape in (("attn_q", (size, width)), ("attn_k", (size, width)), ("attn_v", (size, width)), ("attn_output", (width, size))):
        yield Tensor(f"{block}{name}.weight", shape, values=torch.zeros(shape))


def _no_network(block: str, size: int, width: int) -> Iterator[Tensor]:
    """A network of zeros: llama.cpp drops the attention of a layer that has none."""
    yield Tensor(f"{block}ffn_norm.weight", (width,), values=torch.ones(width))
    for name, shape in (("ffn_gate", (size, width)), ("ffn_up", (size, width)), ("ffn_down", (width, size))):
        yield Tensor(f"{block}{name}.weight", shape, values=torch.zeros(shape))


def _attention(block: str, layer: Layer, a: Attention, want: Architecture, sizes: Sizes, width: int) -> Iterator[Tensor]:
    heads, kv_heads = sizes.heads[layer.index], sizes.kv_heads[layer.index]
    scale = a.scale * math.sqrt(a.width)
    scale = 1.0 if math.isclose(scale, 1.0, rel_tol=1e-6) else scale  # up to the rounding of a float32
    query = _turned(a.query, a.width, want, a)
    if scale != 1.0 and a.query_norm is None:
        query = replace(query, factors=scale * (query.factors if query.factors is not None else torch.ones(query.shape[0])))
    pieces = {
        "attn_q": Piece(query, heads * a.width, width),
        "attn_k": Piece(_turned(a.key, a.width, want, a), kv_heads * a.width, width),
        "attn_v": Piece(a.value, kv_heads * a.width, width),
    }
    groups = {"attn_qkv": list(pieces.values())} if want.fused else {name: [piece] for name, piece in pieces.items()}
    for name, parts in groups.items():
        yield _matrix(block + name, parts)
        yield from _optional_bias(block + name, parts, want.biases["attention"])
    for name, norm, factor in (("attn_q_norm", a.query_norm, scale), ("attn_k_norm", a.key_norm, 1.0)):
        if norm is not None:
            yield _head_norm(block + name, norm, a, want, factor)
    output = [Piece(a.output, width, heads * a.width)]
    yield _matrix(block + "attn_output", output)
    yield from _optional_bias(block + "attn_output", output, want.biases["output"])


def _order(a: Attention, want: Architecture) -> torch.Tensor:
    """Where dimensions stand in the file, of those in which pair k is (k, k + width / 2)."""
    order = torch.arange(a.width)
    if want.rope == "pairs" and a.rope is not None:
        half = a.rope.width // 2
        order[: a.rope.width] = torch.stack([torch.arange(half), torch.arange(half) + half], 1).flatten()
    return order


def _turned(linear: Linear, width: int, want: Architecture, a: Attention) -> Linear:
    """The layer with the dimensions of its heads as the file has them."""
    order = _order(a, want)
    if torch.equal(order, torch.arange(width)):
        return linear
    places = (torch.arange(linear.shape[0]).view(-1, width)[:, order]).flatten()
    rows = linear.rows[places] if linear.rows is not None else places
    return replace(linear, rows=rows, factors=None if linear.factors is None else linear.factors[places])


def _head_norm(name: str, norm: Norm, a: Attention, want: Architecture, factor: float) -> Tensor:
    order = _order(a, want)
    own = norm.factor[order] * factor if norm.factor is not None else torch.full((a.width,), factor)
    inside = norm.order[order] if norm.order is not None else order
    if norm.weight is None:
        return Tensor(f"{name}.weight", (a.width,), values=own)
    return Tensor(f"{name}.weight", (a.width,), stored=norm.weight, order=inside, factor=own)


def _network(block: str, f: FeedForward, want: Architecture, size: int, width: int) -> Iterator[Tensor]:
    for name, linear in (("ffn_gate", f.gate), ("ffn_up", f.up), ("ffn_down", f.down)):
        if linear is not None:
            pieces = [Piece(linear, width, size) if name == "ffn_down" else Piece(linear, size, width)]
            yield _matrix(block + name, pieces)
            yield from _optional_bias(block + name, pieces, want.biases["network"])


def _norm(name: str, norm: Norm, want: Architecture, width: int) -> Iterator[Tensor]:
    ones = norm.factor if norm.factor is not None else torch.ones(width)
    yield Tensor(f"{name}.weight", (width,), stored=norm.weight, factor=norm.factor, values=ones if norm.weight is None else None)
    if norm.bias is not None or want.biases["norm"] == "always":
        zeros = torch.zeros(width) if norm.bias is None else None
        yield Tensor(f"{name}.bias", (width,), stored=norm.bias, factor=norm.factor, values=zeros)


def _matrix(name: str, pieces: Sequence[Piece]) -> Tensor:
    return Tensor(f"{name}.weight", (sum(p.rows for p in pieces), pieces[0].columns), tuple(pieces))


def _optional_bias(name: str, pieces: Sequence[Piece], presence: str) -> Iterator[Tensor]:
    if presence in ("always", "needed") or (presence == "optional" and any(p.linear.bias is not None for p in pieces)):
        yield _bias(name, pieces)


def _bias(name: str, pieces: Sequence[Piece]) -> Tensor:
    return Tensor(f"{name}.bias", (sum(p.rows for p in pieces),), tuple(pieces), bias=True)
