"""Moments of the inputs of linear layers over calibration data, gathered layer by layer while the layers are rounded.

All samples go from one input of layers to the next before any goes on: alive at a time are, of every sample, that input and what else
is read later, and the moments of one input. A layer that was rounded is run with its rounded weight, so that the moments of later
layers are those of the model that is being written (Frantar et al. 2022, section 3.1); beside it goes the model as it was, to know
the drift.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import fx

from edgecc.errors import UsageError
from edgecc.ir.program import Program
from edgecc.pipeline.context import Sample
from edgecc.quantization.ranges import check_finite
from edgecc.targets.gguf.recognition.reading import strip
from edgecc.targets.gguf.rounding.moments import Moments
from edgecc.targets.gguf.rounding.replay import Replay, Values, needed

Read = Callable[[], torch.Tensor]


@dataclass
class Step:
    """One input and the linear calls that read it, none of which has run yet."""

    nodes: tuple[fx.Node, ...]
    moments: Moments
    _replaced: dict[fx.Node, torch.Tensor] = field(default_factory=dict)

    def replace(self, node: fx.Node, weight: torch.Tensor) -> None:
        """Let later layers see what `node`, one of `nodes`, computes with this weight [out, in] instead of its own."""
        assert node in self.nodes, (node, self.nodes)
        self._replaced[node] = weight


def observe(
    program: Program,
    samples: Iterable[Sample],
    layers: Iterable[fx.Node],
    *,
    masks: Sequence[torch.Tensor] | None = None,
    rounded: Mapping[fx.Node, Read] | None = None,
    products: bool = True,
) -> Iterator[Step]:
    """A step for each input of `layers`, calls of aten.linear, in the order of the graph; each step is over when the next is asked for.

    `masks`: for each sample which of its tokens count, bool; an input of as many vectors leaves the others out. `rounded`: what weight
    nodes that are no layer's, such as an embedding, stand for in the file; read at each use. `products=False`: squares alone, for an
    importance. Raises UsageError where there is no sample, and where a value is not finite.
    """
    wanted = set(layers)
    groups: dict[fx.Node, list[fx.Node]] = {}
    order = needed(program, wanted)
    for node in order:
        if node in wanted:
            groups.setdefault(strip(node.args[0]), []).append(node)
    inputs = [list(sample) for sample in samples]
    if not inputs:
        raise UsageError("the calibration set is empty", hint="give at least one text; some 10,000 tokens are usual")
    walk = Replay(program, order, inputs, rounded or {})
    plain = Replay(program, order, inputs, {}) if products else None
    replaced: dict[fx.Node, torch.Tensor] = {}
    done = 0
    for place, node in enumerate(order):
        nodes = groups.pop(strip(node.args[0]), None) if node in wanted else None
        if nodes is None:
            continue
        here = order[done:place]
        walk.run(here, {n: replaced.pop(n) for n in here if n in replaced})
        if plain is not None:
            plain.run(here, {})
        step = Step(tuple(nodes), _moments(node.all_input_nodes[0], walk.values, None if plain is None else plain.values, masks))
        done = place
        yield step
        replaced |= step._replaced
        del step


@torch.no_grad()
def _moments(x: fx.Node, values: Sequence[Values], plain: Sequence[Values] | None, masks: Sequence[torch.Tensor] | None) -> Moments:
    count = 0
    squares = products = drift = torch.zeros(0)
    for index in range(len(values)):
        rows = _rows(x, values[index], masks, index)
        if not index:
            width = rows.shape[1]
            squares = torch.zeros(width, dtype=torch.float64)
            products, drift = (torch.zeros(width, width) for _ in range(2)) if plain is not None else (products, drift)
        count += len(rows)
        squares += rows.double().square().sum(0)
        if plain is not None:
            products.addmm_(rows.T, rows)
            drift.addmm_((_rows(x, plain[index], masks, index) - rows).T, rows)
    return Moments(count, squares) if plain is None else Moments(count, squares, products, drift)


def _rows(x: fx.Node, values: Values, masks: Sequence[torch.Tensor] | None, index: int) -> torch.Tensor:
    """The vectors that count [n, in] f32."""
    value: torch.Tensor = values[x]
    check_finite(x, value)
    rows = value.reshape(-1, value.shape[-1]).float()
    if masks is None or masks[index].numel() != len(rows):
        return rows
    return rows[masks[index].reshape(-1)]
