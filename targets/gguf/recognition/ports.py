"""Ports: values of a graph seen as [sequences, tokens, channels] whatever their layout, to put numbers in and read where they arrive."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import torch
from torch import fx

from edgecc.ir.ops import operator_name
from edgecc.targets.gguf.recognition.reading import Reader, UnrecognizedError, aten, shape_of, strip
from edgecc.targets.gguf.recognition.straight import is_linear

_STILL = 1e-5  # of normal numbers: a factor or two in float32


@dataclass(frozen=True)
class Port:
    """A node whose value has `shape`: tokens lie along the axis `tokens`, sequences along `sequences`, None where both lie along
    `tokens`: one sequence after another, or, where they are `mixed`, the first tokens of all sequences first.
    """

    node: fx.Node
    shape: tuple[int, ...]
    tokens: int
    sequences: int | None
    batch: int
    length: int
    mixed: bool = False

    @property
    def channels(self) -> int:
        return prod(self.shape) // (self.batch * self.length)

    @property
    def _order(self) -> list[int]:
        """The axes with sequences and tokens first."""
        first = [self.tokens] if self.sequences is None else [self.sequences, self.tokens]
        return first + [axis for axis in range(len(self.shape)) if axis not in first]

    def tensor(self, values: torch.Tensor) -> torch.Tensor:
        """values [sequences, tokens, channels], or fewer axes for the same everywhere -> the value of the node."""
        order = self._order
        whole = values.expand(self.batch, self.length, self.channels)
        whole = whole.transpose(0, 1) if self.mixed else whole
        return whole.reshape([self.shape[axis] for axis in order]).permute([order.index(a) for a in range(len(order))]).contiguous()

    def read(self, value: torch.Tensor) -> torch.Tensor:
        """[sequences, tokens, channels] f64."""
        first = value.permute(self._order)
        if self.mixed:
            return first.reshape(self.length, self.batch, -1).transpose(0, 1).double()
        return first.reshape(self.batch, self.length, -1).double()


def ports(reader: Reader, node: fx.Node) -> Iterator[Port]:
    """Every way to see the value of a node so, its last axis being one of channels."""
    shape, batch, length = shape_of(reader, node), reader.batch, reader.length
    for tokens in range(len(shape) - 1):
        if shape[tokens] == batch * length and (tokens == 0 or batch == 1):
            yield Port(node, shape, tokens, None, batch, length)
            if batch > 1:
                yield Port(node, shape, tokens, None, batch, length, mixed=True)
        for sequences in range(len(shape) - 1):
            if sequences != tokens and (shape[sequences], shape[tokens]) == (batch, length):
                yield Port(node, shape, tokens, sequences, batch, length)


@dataclass(frozen=True)
class Wire:
    """What leads from one port to another: the channel at `places` [channels] i64 of the start arrives at token 0, times `factors` f32."""

    start: Port
    end: Port
    places: torch.Tensor
    factors: torch.Tensor

    def send(self, reader: Reader, values: torch.Tensor) -> torch.Tensor:
        """What arrives, [sequences, tokens, channels] f64, where `values` are put in."""
        found = reader.value(self.end.node, {self.start.node: self.start.tensor(values)})
        assert isinstance(found, torch.Tensor)
        return self.end.read(found)

    def noise(self) -> torch.Tensor:
        """Other numbers at each channel of each token of each sequence."""
        shape = (self.start.batch, self.start.length, self.start.channels)
        return torch.randn(shape, generator=torch.Generator().manual_seed(0))

    def straight(self, reader: Reader) -> bool:
        """Whether what holds of token 0 holds of every token, and nothing else is between."""
        noise = self.noise()
        wanted = noise.double()[..., self.places] * self.factors.double()
        return float((self.send(reader, noise) - wanted).abs().max()) <= _STILL * max(1.0, float(self.factors.abs().max()))


def wire(reader: Reader, start: fx.Node, ends: Iterator[Port] | list[Port], *, turned: bool = False) -> Wire:
    """Find what of `start` arrives at one of `ends`, which are of one node.

    Raises UnrecognizedError where it is more than a selection of channels, each times a factor, at token 0; where tokens change
    places; and, unless it may be `turned`, where other tokens are another selection.
    """
    ends = list(ends)
    for node in reader.between(start, ends[0].node)[1:] if ends else []:
        if not is_linear(node, reader.live):
            raise UnrecognizedError(node, f"{operator_name(node.target)} stands between a layer and its use, where llama.cpp has nothing")
    why = UnrecognizedError(start, "its shape has no axis of tokens")
    for begin in ports(reader, start):
        for end in ends:
            try:
                found = _traced(reader, Wire(begin, end, torch.empty(0), torch.empty(0)))
            except UnrecognizedError as error:
                why = error
                continue
            if turned or found.straight(reader):
                return found
            why = UnrecognizedError(end.node, f"tokens get other channels of %{start.name} than token 0 gets, or of one another")
    raise why


def _traced(reader: Reader, trial: Wire) -> Wire:
    count, name = trial.start.channels, trial.start.node.name
    tokens = torch.arange(1, trial.start.batch * trial.start.length + 1, dtype=torch.float32).view(trial.start.batch, -1, 1)
    if bool((trial.send(reader, torch.zeros(count)) != 0).any()):
        raise UnrecognizedError(trial.end.node, f"something is added between %{name} and its use")
    ones = trial.send(reader, torch.ones(count))
    # 1e-5 of the largest token's number: a rotation takes the difference of two products in float32
    if not torch.allclose(trial.send(reader, tokens), ones * tokens, rtol=1e-5, atol=1e-5 * tokens.numel()):
        raise UnrecognizedError(trial.end.node, f"its tokens are not those of %{name}: something else than views and rotations is between")
    arrived = trial.send(reader, torch.arange(1, count + 1, dtype=torch.float32))[0, 0] / ones[0, 0] - 1
    places = arrived.round()
    # 0.25: numbers of channels stay whole but for the rounding of a factor, 1e-7 of some ten thousands
    wrong = not bool(torch.isfinite(arrived).all()) or float((arrived - places).abs().max()) > 0.25
    if wrong or int(places.min()) < 0 or int(places.max()) >= count:
        raise UnrecognizedError(trial.end.node, f"token 0 is no selection of the channels of %{name}, each times a factor")
    return Wire(trial.start, trial.end, places.long(), ones[0, 0].float())


def plain(reader: Reader, value: fx.Node) -> fx.Node:
    """The node whose numbers these are, as `strip`, looked for through exchanges of sequences and tokens too.

    Raises UnrecognizedError where tokens change places on the way.
    """
    node, crossed = strip(value), False
    while node.target in (aten.permute.default, aten.transpose.int) and node in reader.live:
        before = node.args[0]
        if before.meta["val"].dim() != node.meta["val"].dim() or not _keeps_last(node):
            break
        node, crossed = strip(before), True
    if crossed:
        found = wire(reader, node, ports(reader, value))
        if not torch.equal(found.places, torch.arange(found.start.channels)):
            raise UnrecognizedError(value, f"its channels are not those of %{node.name}")
    assert isinstance(node, fx.Node)
    return node


def _keeps_last(node: fx.Node) -> bool:
    """Whether a permutation or transposition leaves the last axis where it is."""
    rank = node.meta["val"].dim()
    if node.target is aten.permute.default:
        axes = node.args[1]
        assert isinstance(axes, (list, tuple))
        return axes[-1] in (-1, rank - 1)
    return all(isinstance(a, int) and a % rank != rank - 1 for a in node.args[1:3])
