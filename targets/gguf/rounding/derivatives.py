"""How much the outputs of a model move with its embeddings: what rounding the rows of an embedding is to be weighed by.

No layer's input tells what an embedding's error does; its derivative does. With g the derivative of the log-likelihood of tokens that
the model itself draws, the sum of g g^T over tokens is the Fisher information: the KL divergence that a small error e of a row makes
is e^T (g g^T) e / 2 on average. Where the outputs are no logits, g is that of a random direction: the square of their error then.

The graph is run forward in segments, of which only what the next one reads is kept, and backward segment by segment: alive at a time
are the weights and activations of one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import fx

from edgecc.ir.lazy import read
from edgecc.ir.program import Program
from edgecc.pipeline.context import Sample
from edgecc.targets.gguf.rounding.moments import Moments
from edgecc.targets.gguf.rounding.replay import Values, call, last_reads, moved, needed

_SEGMENT = 32  # calls
_TOKENS_PER_CHANNEL = 64


def sensitivity(
    program: Program,
    samples: Iterable[Sample],
    embedding: fx.Node,
    *,
    logits: bool,
    masks: Sequence[torch.Tensor] | None = None,
    seed: int = 0,
) -> Moments:
    """Moments of the derivatives of the first output by `embedding`, the call that looks rows up: products [width, width].

    `logits`: the output has the logits of tokens in its last axis. `masks` as for `observe`: tokens whose outputs count. Reads as many
    samples as the matrix needs.
    """
    (output, *_) = program.outputs()
    order = needed(program, [output])
    width = int(embedding.meta["val"].shape[-1])
    products, count = torch.zeros(width, width), 0
    generator = torch.Generator().manual_seed(seed)
    backward = _Backward(program, order, embedding, output)
    for index, sample in enumerate(samples):
        if count >= _TOKENS_PER_CHANNEL * width:
            break
        found = backward.run(sample, logits, None if masks is None else masks[index], generator).reshape(-1, width)
        products.addmm_(found.T, found)
        count += len(found)
    return Moments(count, products.diagonal().double(), products)


class _Backward:
    """The derivative by one value of the graph, segment by segment."""

    def __init__(self, program: Program, order: Sequence[fx.Node], value: fx.Node, output: fx.Node) -> None:
        self._program, self._value, self._output = program, value, output
        start = order.index(value) + 1
        self._before, after = order[:start], order[start:]
        self._dying = last_reads(order)
        self._moving = moved(after, [value])
        self._segments = self._cut(after)

    def _cut(self, order: Sequence[fx.Node]) -> list[list[fx.Node]]:
        """Segments that end where every value alive that moves is a tensor: a slope of a list of tensors is not known."""
        segments: list[list[fx.Node]] = [[]]
        lists: set[fx.Node] = set()
        for node in order:
            if len(segments[-1]) >= _SEGMENT and not lists:
                segments.append([])
            segments[-1].append(node)
            if node in self._moving and isinstance(node.meta["val"], (list, tuple)):
                lists.add(node)
            lists.difference_update(self._dying.get(node, ()))
        return segments

    def run(self, sample: Sample, logits: bool, mask: torch.Tensor | None, generator: torch.Generator) -> torch.Tensor:
        """[.., width], of the shape of the value."""
        values: Values = dict(zip(self._program.inputs(), sample, strict=True))
        kept: list[Values] = []
        with torch.no_grad():
            self._forward(self._before, values)
            for segment in self._segments:
                kept.append(dict(values))
                self._forward(segment, values)
            slopes = {self._output: _direction(values[self._output], logits, mask, generator)}
        values.clear()
        while kept:
            slopes = self._back(self._segments[len(kept) - 1], kept.pop(), slopes)
        return slopes[self._value]

    def _back(self, segment: Sequence[fx.Node], values: Values, slopes: dict[fx.Node, torch.Tensor]) -> dict[fx.Node, torch.Tensor]:
        """The slopes of what a segment reads, from those of what it leaves."""
        leaves = {n: v.detach().requires_grad_() for n, v in values.items() if n in self._moving and isinstance(v, torch.Tensor)}
        values.update(leaves)
        with torch.enable_grad():
            self._forward(segment, values)
            left = [n for n in slopes if values[n].requires_grad]
            found = torch.autograd.grad([values[n] for n in left], list(leaves.values()), [slopes[n] for n in left], allow_unused=True)
        return {n: slope for n, slope in zip(leaves, found, strict=True) if slope is not None}

    def _forward(self, segment: Sequence[fx.Node], values: Values) -> None:
        for node in segment:
            weights = {a: read(self._program.weight(a)) for a in node.all_input_nodes if a.op == "get_attr"}
            values[node] = call(node, {**{a: values[a] for a in node.all_input_nodes if a not in weights}, **weights})
            for value in self._dying.get(node, ()):
                values.pop(value, None)


def _direction(output: torch.Tensor, logits: bool, mask: torch.Tensor | None, generator: torch.Generator) -> torch.Tensor:
    """The derivative of a draw by the output."""
    if logits:
        likely = output.float().softmax(-1)
        drawn = torch.multinomial(likely.reshape(-1, likely.shape[-1]), 1, generator=generator).view(*likely.shape[:-1], 1)
        slope = likely.scatter_add_(-1, drawn, torch.full(drawn.shape, -1.0)).to(output.dtype)
    else:
        slope = torch.randn(output.shape, generator=generator).to(output.dtype)
    if mask is not None and mask.shape == output.shape[:-1]:
        slope = slope * mask[..., None]
    return slope
