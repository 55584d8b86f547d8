"""Heads found by probing: which rows of a layer become which dimension of which head, and how positions turn them.

A layer's result goes to the attention through views, slices, rotations of positions and a norm, in as many spellings as there are
models. Instead of matching them, numbers are put in the place of the layer's result and read where they arrive: the number of its
row at position 0, where positions turn nothing; one dimension at a time at all positions, which gives the rotation; and noise, for
which what was found must predict what arrives.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import fx

from edgecc.targets.gguf.recognition.description import Linear, Norm, Rope
from edgecc.targets.gguf.recognition.parts import linear_at, norm_at
from edgecc.targets.gguf.recognition.ports import Port, Wire, ports, wire
from edgecc.targets.gguf.recognition.reading import Reader, UnrecognizedError, aten, shape_of
from edgecc.targets.gguf.recognition.rope import find_rope, rotations

_NOISE = 1e-3  # of normal numbers: tables of cos and sin in float32 at a few hundred positions
_STILL = 1e-5  # of the same where nothing turns: a factor or two in float32


@dataclass(frozen=True)
class Heads:
    """Where the heads at an operand of the attention [1, heads, length, width] come from.

    `rows` [heads, width] i64: the row of `linear` that each dimension is, in the order of the rotation; `factors` [heads, width] f32:
    what it is multiplied by. With a `norm` between, the factors belong to it. `order` [width] i64: which of the operand's dimensions
    stands where in the order of the rotation.
    """

    linear: Linear
    rows: torch.Tensor
    factors: torch.Tensor
    order: torch.Tensor
    norm: Norm | None = None
    rope: Rope | None = None

    def distinct(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The first of every group of equal heads, [n] i64, and which group each head belongs to, [heads] i64."""
        heads = [(*rows, *factors) for rows, factors in zip(self.rows.tolist(), self.factors.tolist(), strict=True)]
        kept = list(dict.fromkeys(heads))
        return torch.tensor([heads.index(head) for head in kept]), torch.tensor([kept.index(head) for head in heads])

    def layer(self, heads: torch.Tensor) -> Linear:
        """The layer with these heads alone, in this order."""
        rows, factors = self.rows[heads].flatten(), self.factors[heads].flatten()
        scaled = self.norm is None and bool((factors != 1).any())
        return selected(self.linear, rows, factors if scaled else None)


def selected(linear: Linear, rows: torch.Tensor, factors: torch.Tensor | None = None) -> Linear:
    """Some rows of a layer that has no selection yet."""
    whole = torch.equal(rows, torch.arange(linear.shape[0]))
    return replace(linear, rows=None if whole else rows, factors=factors)


def read_heads(reader: Reader, node: fx.Node) -> Heads:
    """The heads at an operand of an attention.

    Raises UnrecognizedError where something else than a layer, a norm, views and rotary positions makes them.
    """
    shape = shape_of(reader, node)
    if len(shape) not in (3, 4) or shape[-2] != reader.length or (len(shape) == 4 and shape[0] != reader.batch):
        raise UnrecognizedError(
            node, f"an operand of the attention has shape {list(shape)}, want [{reader.batch}, heads, {reader.length}, width]"
        )
    heads, width = shape[-3], shape[-1]
    end = Port(node, shape, len(shape) - 2, 0 if len(shape) == 4 else None, reader.batch, reader.length)
    start = _source(reader, node, aten.linear.default, aten.rms_norm.default, aten.layer_norm.default)
    found = wire(reader, start, [end], turned=True)
    places, factors = found.places.view(heads, width), found.factors.view(heads, width)
    rope, order = _rotation(reader, found, places, factors)
    places, factors = places[:, order], factors[:, order]
    if start.target is aten.linear.default:
        return Heads(_stored(start), places, factors, order, None, rope)
    norm = _head_norm(reader, start, places, factors, width)
    inside = start.args[0]
    assert isinstance(inside, fx.Node)
    layer = inside if inside.target is aten.linear.default else _source(reader, inside, aten.linear.default)
    inner = wire(reader, layer, [replace(found.start, node=inside)])
    if bool((inner.factors != 1).any()):
        raise UnrecognizedError(inside, "heads are multiplied by a factor before their norm")
    return Heads(_stored(layer), inner.places[places], factors, order, norm, rope)


def _source(reader: Reader, node: fx.Node, *targets: object) -> fx.Node:
    found = reader.sources(node, *targets)
    if len(found) != 1:
        what = f"{len(found)} layers: " + ", ".join(f"%{n.name}" for n in found) if found else "no layer"
        raise UnrecognizedError(node, f"an operand of the attention is made of {what}, want one")
    return found[0]


def _stored(node: fx.Node) -> Linear:
    linear = linear_at(node)
    if linear is None:
        raise UnrecognizedError(node, "its weight is computed, want a stored one")
    return linear


def _head_norm(reader: Reader, node: fx.Node, places: torch.Tensor, factors: torch.Tensor, width: int) -> Norm:
    """The norm over the dimensions of a head, its weights in the order of the rotation."""
    norm = norm_at(node, reader)
    if norm is None or node.args[1] != [width]:
        raise UnrecognizedError(node, f"the norm before the attention is not over the {width} dimensions of a head: {node.args[1]}")
    order = places[0] % width
    if bool((places % width != order).any()) or bool((factors != factors[0]).any()):
        raise UnrecognizedError(node, "its heads are normed by different weights")
    own = bool((factors[0] != 1).any())
    return replace(norm, order=order, factor=factors[0] if own else None)


def _rotation(reader: Reader, found: Wire, places: torch.Tensor, factors: torch.Tensor) -> tuple[Rope | None, torch.Tensor]:
    """The rotation of the heads and the order of dimensions that goes with it; one that another layer has is tried first."""
    for rope, order in reader.turns:
        if len(order) == places.shape[1] and _predicts(reader, found, places, factors, rope, order):
            return rope, order
    rope, order = find_rope(_maps(reader, found, places, factors), found.end.node)
    if not _predicts(reader, found, places, factors, rope, order):
        raise UnrecognizedError(found.end.node, "its heads are turned in different ways, or mixed with one another")
    reader.turns.append((rope, order))
    return rope, order


def _maps(reader: Reader, found: Wire, places: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """What becomes of the dimensions of the first head at every position: [tokens, width, width] f64."""
    heads, width = places.shape
    maps = torch.empty(reader.length, width, width, dtype=torch.float64)
    for i in range(width):
        one = torch.zeros(found.start.channels)
        one[places[:, i]] = 1 / factors[:, i]
        maps[:, :, i] = found.send(reader, one)[0].view(reader.length, heads, width)[:, 0]
    return maps


def _predicts(reader: Reader, found: Wire, places: torch.Tensor, factors: torch.Tensor, rope: Rope | None, order: torch.Tensor) -> bool:
    noise = found.noise()
    x = (noise[..., places] * factors)[..., order].double()
    turned = torch.einsum("tij,bthj->bthi", rotations(rope.frequencies, len(order), reader.length), x) if rope else x
    arrived = found.send(reader, noise).view(reader.batch, reader.length, *places.shape)[..., order]
    close = _NOISE if rope is not None else _STILL
    return float((turned - arrived).abs().max()) <= close * max(1.0, float(factors.abs().max()))


def read_columns(reader: Reader, node: fx.Node, layer: fx.Node) -> torch.Tensor:
    """Which number of an attention's result [1, heads, length, width] each column of `layer` multiplies: [columns] i64."""
    end = layer.args[0]
    assert isinstance(end, fx.Node)
    found = wire(reader, node, ports(reader, end))
    if bool((found.factors != 1).any()):
        raise UnrecognizedError(end, "the result of the attention is multiplied by a factor")
    if len(set(found.places.tolist())) != found.start.channels:
        raise UnrecognizedError(end, "it takes some numbers of the attention's result more than once, or not at all")
    return found.places
