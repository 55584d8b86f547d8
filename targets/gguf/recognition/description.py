"""What a language model computes, in the words of transformers instead of operators; every part knows its nodes.

Rows of a matrix are its outputs. Dimensions of heads stand in the order of the rotation: pair k is (k, k + width / 2),
which graphs need not do: `Linear.rows` says which rows of the stored weight they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

import torch
from torch import fx

#: How tokens attend to others: to those before them, or to all.
Direction = Literal["causal", "full"]


@dataclass(frozen=True)
class Linear:
    """y = x W^T + b. `call` reads the weight node `weight` [out, in] and the bias node [out], None where there is none.

    `rows` [n] i64: which rows of both are meant, None for all in order; `factors` [n] f32: what multiplies each of them, None
    for 1; `columns` [in] i64: the order of the columns, None for theirs.
    """

    call: fx.Node
    weight: fx.Node
    bias: fx.Node | None
    rows: torch.Tensor | None = None
    factors: torch.Tensor | None = None
    columns: torch.Tensor | None = None

    @property
    def source(self) -> fx.Node:
        """What it reads."""
        x = self.call.args[0]
        assert isinstance(x, fx.Node)
        return x

    @property
    def shape(self) -> tuple[int, int]:
        """[out, in] of what is meant."""
        rows, columns = self.weight.meta["val"].shape
        return len(self.rows) if self.rows is not None else int(rows), int(columns)


@dataclass(frozen=True)
class Norm:
    """The norm of `source`; `node` is its result. `weight` and `bias` are weight nodes or computed of them, None where there is none;
    `order` [n] i64 the order of their numbers, None for theirs; `factor` [n] f32: what multiplies the result, None for 1.
    """

    node: fx.Node
    source: fx.Node
    kind: Literal["rms", "layer"]
    weight: fx.Node | None
    bias: fx.Node | None
    eps: float
    order: torch.Tensor | None = None
    factor: torch.Tensor | None = None


@dataclass(frozen=True)
class Rope:
    """Rotary positions (Su et al. 2021): pairs of the first `width` dimensions turn by position * frequency.

    `frequencies` [width / 2] f64, in radians a position.
    """

    node: fx.Node
    width: int
    frequencies: torch.Tensor

    def equals(self, other: Rope) -> bool:
        """Whether both turn by the same angles. 1e-5 of a radian a position is 0.04 after 4096, and many times what float32 leaves."""
        return self.width == other.width and torch.allclose(self.frequencies, other.frequencies, rtol=1e-5, atol=0)


@dataclass(frozen=True)
class Mask:
    """`slopes` [heads] f32: what one position more of distance adds to the scores (Press et al. 2022, ALiBi), None for nothing."""

    direction: Direction
    slopes: torch.Tensor | None = None


@dataclass(frozen=True)
class Attention:
    """softmax(q k^T * scale + mask) v through `output`. `node` is the call that computes it; `scale` is what is left of it once the
    factors of the rows are those of `query` and `key`.
    """

    node: fx.Node
    heads: int
    kv_heads: int
    width: int
    value_width: int
    query: Linear
    key: Linear
    value: Linear
    output: Linear
    query_norm: Norm | None
    key_norm: Norm | None
    rope: Rope | None
    mask: Mask
    scale: float


@dataclass(frozen=True)
class FeedForward:
    """down(activation(up)) or down(activation(gate) * up). `activation`: silu, gelu (with erf), gelu_tanh, relu, ...; `node` computes it."""

    node: fx.Node
    activation: str
    gate: Linear | None
    up: Linear
    down: Linear


@dataclass(frozen=True)
class Layer:
    """`before_attention`, `before_feed_forward`: norms of what they read; `after_...`: of the sum with their result.

    `parallel`: both read the input of the layer, and their results are added to it. One of them may be missing.
    """

    index: int
    attention: Attention | None
    feed_forward: FeedForward | None
    before_attention: Norm | None
    before_feed_forward: Norm | None
    after_attention: Norm | None
    after_feed_forward: Norm | None
    parallel: bool

    @property
    def node(self) -> fx.Node:
        """What computes its attention, or its network where it has none."""
        part = self.attention or self.feed_forward
        assert part is not None
        return part.node


@dataclass(frozen=True)
class Embeddings:
    """`tokens` [vocabulary, width] is a weight node, `positions` [..., context, width] and `types` [..., types, width] too, or None.

    `ids` is the input that holds the tokens, `scale` what multiplies their rows.
    """

    node: fx.Node
    ids: fx.Node
    tokens: fx.Node
    positions: fx.Node | None
    types: fx.Node | None
    norm: Norm | None
    scale: float


@dataclass(frozen=True)
class LanguageModel:
    """`head` gives logits of a decoder, None for a model of embeddings; `output` is the node of the result."""

    embeddings: Embeddings
    layers: Sequence[Layer]
    norm: Norm | None
    head: Linear | None
    output: fx.Node

    @property
    def attentions(self) -> list[Attention]:
        """Those of the layers that have one."""
        return [layer.attention for layer in self.layers if layer.attention is not None]

    @property
    def width(self) -> int:
        return int(self.embeddings.tokens.meta["val"].shape[1])

    @property
    def vocabulary(self) -> int:
        return int(self.embeddings.tokens.meta["val"].shape[0])

    @property
    def tied(self) -> bool:
        """Whether the head multiplies by the table of tokens, as it is."""
        head = self.head
        return head is not None and head.weight.target == self.embeddings.tokens.target and head.rows is None and head.factors is None


def rows_of(table: fx.Node) -> int:
    """How many rows a table has, whatever axes of one stand before them."""
    shape = table.meta["val"].shape
    return int(prod(shape[:-1]))
