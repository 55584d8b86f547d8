"""Ports: values of a graph seen as [tokens, channels] whatever their layout, to put numbers in and read them where they arrive."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from edgecc.targets.gguf.recognition.reading import Reader, UnrecognizedError, aten

#: Calls that mix tokens or channels: none of them belongs between a layer and what it is read for.
_MIXING = frozenset({aten.matmul.default, aten.mm.default, aten.bmm.default, aten.softmax.int, aten.linear.default, aten.cumsum.default})


@dataclass(frozen=True)
class Port:
    """A node whose value has `shape`; tokens lie along `axis`, sequences along axis 0 where there is one for them."""

    node: fx.Node
    shape: tuple[int, ...]
    axis: int
    batch: int
    length: int

    @property
    def _batched(self) -> bool:
        return self.axis > 0

    @property
    def channels(self) -> int:
        return torch.Size(self.shape).numel() // (self.batch * self.length)

    def tensor(self, values: torch.Tensor) -> torch.Tensor:
        """values [tokens, channels], or [channels] for all tokens, the same for every sequence -> the value of the node."""
        moved = list(self.shape)
        moved.pop(self.axis)
        rest = moved[1:] if self._batched else moved
        whole = values.expand(self.batch, self.length, self.channels)
        if self._batched:
            return whole.reshape(self.batch, self.length, *rest).movedim(1, self.axis).contiguous()
        return whole.reshape(self.batch * self.length, *rest).contiguous()

    def read(self, value: torch.Tensor) -> torch.Tensor:
        """The first sequence as [tokens, channels]."""
        if self._batched:
            return value.movedim(self.axis, 1)[0].reshape(self.length, -1)
        return value.reshape(self.batch, self.length, -1)[0]


@dataclass(frozen=True)
class Wire:
    """What leads from one port to another: `places` [channels] i64 of the start that arrive at token 0, and their factors f32."""

    start: Port
    end: Port
    places: torch.Tensor
    factors: torch.Tensor

    def send(self, reader: Reader, values: torch.Tensor) -> torch.Tensor:
        """What arrives, [tokens, channels], where `values` are put in."""
        found = reader.value(self.end.node, {self.start.node: self.start.tensor(values)})
        assert isinstance(found, torch.Tensor)
        return self.end.read(found)


def shape_of(reader: Reader, node: fx.Node) -> tuple[int, ...]:
    """The shape at the sizes of the examples."""
    sizes: Mapping[str, int] = reader.program.example_sizes()
    return tuple(_size(s, sizes) for s in node.meta["val"].shape)


def _size(size: Any, sizes: Mapping[str, int]) -> int:
    if isinstance(size, int):
        return size
    expression = size.node.expr
    return int(expression.subs({symbol: sizes[str(symbol)] for symbol in expression.free_symbols}))


def port(reader: Reader, node: fx.Node, axis: int) -> Port:
    return Port(node, shape_of(reader, node), axis, reader.batch, reader.length)


def wire(reader: Reader, start: fx.Node, end: Port) -> Wire:
    """Find what of `start` arrives at `end`. Raises UnrecognizedError where it is more than a selection of its channels, each times a
    factor, at token 0, or where tokens change places.
    """
    for node in reader.between(start, end.node)[1:]:
        if node.target in _MIXING:
            raise UnrecognizedError(node, "it stands between a layer and its use, where llama.cpp has nothing")
    shape = shape_of(reader, start)
    tokens = torch.arange(1, reader.length + 1, dtype=torch.float32)[:, None]
    for axis in range(len(shape) - 1):
        if shape[axis] != (reader.length if axis else reader.length * reader.batch):
            continue
        begin = Port(start, shape, axis, reader.batch, reader.length)
        trial = Wire(begin, end, torch.empty(0), torch.empty(0))
        ones = trial.send(reader, torch.ones(begin.channels))
        if torch.allclose(trial.send(reader, tokens), ones * tokens, rtol=1e-5, atol=1e-5 * reader.length):
            return _traced(reader, trial, ones[0])
    raise UnrecognizedError(end.node, f"its tokens are not those of %{start.name}: something else than views and rotations is between")


def _traced(reader: Reader, trial: Wire, ones: torch.Tensor) -> Wire:
    count = trial.start.channels
    if bool((trial.send(reader, torch.zeros(count)) != 0).any()):
        raise UnrecognizedError(trial.end.node, f"something is added between %{trial.start.node.name} and its use")
    arrived = trial.send(reader, torch.arange(1, count + 1, dtype=torch.float32))[0].double() / ones.double() - 1
    places = arrived.round()
    wrong = not bool(torch.isfinite(arrived).all()) or float((arrived - places).abs().max()) > 0.25
    if wrong or int(places.min()) < 0 or int(places.max()) >= count:
        raise UnrecognizedError(trial.end.node, f"token 0 is no selection of the channels of %{trial.start.node.name}, each times a factor")
    return Wire(trial.start, trial.end, places.long(), ones)
