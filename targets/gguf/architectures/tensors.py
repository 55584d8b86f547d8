"""A tensor of a GGUF file, made of the weights of a program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import fx

from edgecc.errors import UsageError
from edgecc.ir import lazy
from edgecc.ir.program import Program
from edgecc.targets.gguf.recognition.description import Linear
from edgecc.targets.gguf.recognition.reading import Reader


@dataclass(frozen=True)
class Piece:
    """Rows of a tensor: those of a layer's weight, or of its bias, with zeros up to `rows` and `columns`."""

    linear: Linear
    rows: int
    columns: int


@dataclass(frozen=True)
class Tensor:
    """One tensor of the file in PyTorch's order of dimensions: the rows of `pieces`, or of the weight node `stored`, or `values`.

    `bias`: the pieces are biases, zeros where a layer has none. `order` and `factor` apply to what is stored.
    """

    name: str
    shape: tuple[int, ...]
    pieces: Sequence[Piece] = ()
    bias: bool = False
    stored: fx.Node | None = None
    order: torch.Tensor | None = None
    factor: torch.Tensor | None = None
    values: torch.Tensor | None = None

    def read(self, program: Program) -> torch.Tensor:
        """Its numbers in float32. Raises UsageError where one of them is not finite, with the weight's name."""
        if self.values is not None:
            return self.values
        if self.stored is not None:
            found = _value(program, self.stored).reshape(self.shape)
            found = found[self.order] if self.order is not None else found
            return found * self.factor if self.factor is not None else found
        parts = [bias_of(program, p) if self.bias else weight_of(program, p) for p in self.pieces]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def weight_of(program: Program, piece: Piece) -> torch.Tensor:
    """[rows, columns] f32."""
    linear = piece.linear
    found = _value(program, linear.weight)
    found = found[linear.rows] if linear.rows is not None else found
    found = found[:, linear.columns] if linear.columns is not None else found
    found = found * linear.factors[:, None] if linear.factors is not None else found
    if found.shape == (piece.rows, piece.columns):
        return found
    return torch.nn.functional.pad(found, (0, piece.columns - found.shape[1], 0, piece.rows - found.shape[0]))


def bias_of(program: Program, piece: Piece) -> torch.Tensor:
    """[rows] f32, zeros where the layer has none."""
    linear = piece.linear
    if linear.bias is None:
        return torch.zeros(piece.rows)
    found = _value(program, linear.bias)
    found = found[linear.rows] if linear.rows is not None else found
    found = found * linear.factors if linear.factors is not None else found
    return torch.nn.functional.pad(found, (0, piece.rows - len(found)))


def _value(program: Program, node: fx.Node) -> torch.Tensor:
    """f32: a stored weight, or what is computed from weights alone."""
    if program.is_weight(node):
        return finite(node, lazy.read(program.weight(node)).float())
    found: torch.Tensor = Reader(program, frozenset(), 1, 1).value(node)
    return finite(node, found.float())


def finite(node: fx.Node, values: torch.Tensor) -> torch.Tensor:
    """The values of a weight node. Raises UsageError where one is not finite, with the weight's name."""
    if not bool(torch.isfinite(values).all()):
        at = tuple(int(i) for i in (~torch.isfinite(values)).nonzero()[0])
        raise UsageError(f"the weight {node.target} holds {float(values[at])} at {list(at)}", hint="train or convert the model again")
    return values
