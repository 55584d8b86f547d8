"""A language model read from its graph, from the result backwards along the stream that layers add to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod

from torch import fx

from edgecc.ir.ops import operator_name
from edgecc.ir.program import Program
from edgecc.targets.gguf.recognition.attention import read_attention
from edgecc.targets.gguf.recognition.description import Attention, FeedForward, LanguageModel, Layer, Linear, Norm
from edgecc.targets.gguf.recognition.embeddings import read_embeddings
from edgecc.targets.gguf.recognition.feed_forward import layer_of, read_feed_forward
from edgecc.targets.gguf.recognition.opening import open_program
from edgecc.targets.gguf.recognition.parts import linear_at, norm_at
from edgecc.targets.gguf.recognition.ports import plain
from edgecc.targets.gguf.recognition.reading import Reader, UnrecognizedError, aten, shape_of
from edgecc.targets.gguf.recognition.straight import is_linear

_Branch = tuple[Attention | FeedForward, Norm | None]
"""A part, and the norm of what it reads."""


@dataclass(frozen=True)
class _Step:
    """The results of `attention` and `network`, of which one may be missing, are added to the stream, and `after` norms the sum.

    `before_attention`, `before_network`: norms of what they read. `previous` is the stream before.
    """

    attention: Attention | None
    before_attention: Norm | None
    network: FeedForward | None
    before_network: Norm | None
    after: Norm | None
    previous: fx.Node


def read_model(program: Program) -> LanguageModel:
    """What the first output of a program is, as a language model.

    Raises UnrecognizedError with the first node, from the result backwards, that no transformer has.
    """
    reader, call = open_program(program)
    output = program.outputs()[0]
    if output not in reader.live:
        raise UnrecognizedError(output, "the first output does not depend on the tokens")
    width = int(call.meta["val"].shape[-1])
    _check_shape(reader, output)
    head = _layer_at(reader, output)
    if head is not None and head.shape[1] == width:
        at = plain(reader, head.source)
    else:
        head, at = None, plain(reader, output)
    norm = norm_at(at, reader)
    if head is None and norm is None and at.target is not aten.add.Tensor:
        raise UnrecognizedError(at, f"the result is that of {operator_name(at.target)}, want that of a layer (logits), a norm or a sum")
    steps = list(_steps(reader, at if norm is None else plain(reader, norm.source)))
    if norm is not None and steps and not (steps[0].after or steps[0].before_attention or steps[0].before_network):
        steps, norm = [replace(steps[0], after=norm), *steps[1:]], None  # it belongs to the last layer
    if not steps:
        raise UnrecognizedError(at, "nothing is before it but the embeddings: want an attention or a feed-forward network")
    embeddings = read_embeddings(reader, steps[-1].previous, call)
    return LanguageModel(embeddings, _layers(list(reversed(steps))), norm, head, output)


def _check_shape(reader: Reader, output: fx.Node) -> None:
    shape = shape_of(reader, output)
    if prod(shape[:-1]) != reader.batch * reader.length:
        raise UnrecognizedError(
            output,
            f"the result has shape {list(shape)}, want numbers for each of {reader.batch} x {reader.length} tokens, not of the last alone",
        )


def _steps(reader: Reader, node: fx.Node) -> Iterator[_Step]:
    """The steps that end at `node`, the last one first."""
    while (step := _step(reader, node)) is not None:
        yield step
        node = step.previous


def _step(reader: Reader, node: fx.Node) -> _Step | None:
    """The last step that leads to `node`, None where that is made of the embeddings alone."""
    after = norm_at(node, reader)
    at = plain(reader, after.source) if after is not None else node
    if at.target is not aten.linear.default and not reader.sources(at, aten.linear.default):
        return None
    if at.target is not aten.add.Tensor:
        raise UnrecognizedError(at, f"{operator_name(at.target)} stands in the stream, want the sum of the stream and a layer's result")
    terms = list(_terms(reader, at))
    layers = [(t, _layer_at(reader, t)) for t in terms]
    streams = [t for t, layer in layers if layer is None]
    found = ", ".join(f"%{t.name} = {operator_name(t.target)}" for t in streams) or "none"
    if len(streams) == len(terms):
        last = max(streams, key=reader.order.__getitem__)
        raise UnrecognizedError(last, f"{operator_name(last.target)} is added to the stream, want what a layer gives, as it is")
    constants = [t for t in streams if t not in reader.live]
    if constants:
        raise UnrecognizedError(at, f"%{constants[0].name}, which does not depend on the tokens, is added to the stream")
    if len(streams) != 1:
        raise UnrecognizedError(at, f"layers are added to {len(streams)} values ({found}), want one stream")
    (previous,) = streams
    if shape_of(reader, previous) != shape_of(reader, at) and prod(shape_of(reader, previous)) != prod(shape_of(reader, at)):
        raise UnrecognizedError(at, f"the stream grows from {list(shape_of(reader, previous))} to {list(shape_of(reader, at))}")
    return _joined([_branch(reader, layer, previous) for _, layer in layers if layer is not None], after, previous)


def _joined(branches: Sequence[_Branch], after: Norm | None, previous: fx.Node) -> _Step:
    """The step of one attention, one network or both. Raises UnrecognizedError for two of a kind."""
    attentions = [(part, before) for part, before in branches if isinstance(part, Attention)]
    networks = [(part, before) for part, before in branches if isinstance(part, FeedForward)]
    if len(attentions) > 1 or len(networks) > 1:
        second, _ = (attentions if len(attentions) > 1 else networks)[1]
        raise UnrecognizedError(
            second.node, f"{len(attentions)} attentions and {len(networks)} networks are added at once, want one of each"
        )
    attention, before_attention = attentions[0] if attentions else (None, None)
    network, before_network = networks[0] if networks else (None, None)
    return _Step(attention, before_attention, network, before_network, after, previous)


def _layer_at(reader: Reader, node: fx.Node) -> Linear | None:
    """The layer that a node is, times a constant; None for anything else."""
    at = plain(reader, node)
    if at.target in (aten.mul.Tensor, aten.div.Tensor) and at in reader.live and is_linear(at, reader.live):
        (operand,) = (o for o in at.all_input_nodes if o in reader.live)
        inner = plain(reader, operand)
        return layer_of(reader, at) if linear_at(inner) is not None else None
    return linear_at(at)


def _terms(reader: Reader, node: fx.Node) -> Iterator[fx.Node]:
    """What an addition adds up; a sum that nothing else reads is part of it."""
    if node.kwargs:
        raise UnrecognizedError(node, f"an addition with {dict(node.kwargs)}")
    for operand in node.args:
        if not isinstance(operand, fx.Node):
            raise UnrecognizedError(node, f"the number {operand} is added to the stream")
        term = plain(reader, operand)
        if term.target is aten.add.Tensor and term in reader.live and len(term.users) == 1 and reader.sources(term, aten.linear.default):
            yield from _terms(reader, term)
        else:
            yield term


def _branch(reader: Reader, layer: Linear, previous: fx.Node) -> _Branch:
    """An attention or a feed-forward network that ends in `layer` and reads the stream `previous`, or its norm."""
    sdpa = aten.scaled_dot_product_attention.default
    inside = layer.source
    nearest = reader.sources(inside, sdpa, aten.linear.default)
    attention = inside if inside.target is sdpa else nearest[0] if len(nearest) == 1 and nearest[0].target is sdpa else None
    part: Attention | FeedForward = read_attention(reader, attention, layer) if attention is not None else read_feed_forward(reader, layer)
    read = plain(reader, (part.query if isinstance(part, Attention) else part.up).source)
    if read is previous:
        return part, None
    before = norm_at(read, reader)
    if before is None or plain(reader, before.source) is not previous:
        raise UnrecognizedError(read, f"%{part.node.name} reads it, want the stream %{previous.name} or its norm")
    return part, before


def _layers(steps: Sequence[_Step]) -> list[Layer]:
    """Attention and the feed-forward network after it are one layer, in one step where they are parallel."""
    layers: list[Layer] = []
    pending = list(steps)
    while pending:
        first = pending.pop(0)
        follows = first.network is None and bool(pending) and pending[0].attention is None
        last = pending.pop(0) if follows else first
        layers.append(
            Layer(
                len(layers),
                first.attention,
                last.network,
                first.before_attention,
                last.before_network,
                first.after if first.network is None else None,
                last.after if last.network is not None else None,
                parallel=first.attention is not None and first.network is not None,
            )
        )
    return layers
