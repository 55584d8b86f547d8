"""The weights of a program as a GGUF file holds them: what llama.cpp computes with, in the places that they came from.

A weight is decoded where it is used, so that a program of the size of the file can be run beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx

from edgecc.errors import ContractError
from edgecc.ir.lazy import Lazy, read
from edgecc.ir.program import Program
from edgecc.targets.gguf.architectures.tensors import Piece, Tensor
from edgecc.targets.gguf.blocks import FORMATS, decode
from edgecc.targets.gguf.plan import Plan
from edgecc.targets.gguf.sizes import tensor_bytes
from edgecc.targets.gguf.writer import Written

#: The largest error of a weight by the bits of its format, over its magnitude: twice that of blocks with one large value each, which
#: rounding to the nearest leaves. Weights that make up for the rounding of others move away from what they were, by up to `_MOVED`; any
#: other weight of the size is 1.4 away.
_EXPLAINED = {16: 0.02, 8: 0.05, 6: 0.2, 5: 0.4, 4: 0.8}
_MOVED = 0.25
_VANISHING = 6e-5  # scales are float16, of which 6e-8 is the least, times codes of up to ten bits: smaller numbers become 0
_LEAST = 1.2  # of 2 and 3 bits: nearly all may be lost


@dataclass(frozen=True)
class _Part:
    """Rows from `first` on of a tensor in the file: those of `piece`, None where the tensor is the weight itself."""

    tensor: Tensor
    format: str
    data: np.ndarray[Any, np.dtype[np.uint8]]
    first: int = 0
    piece: Piece | None = None

    def values(self) -> torch.Tensor:
        """As the file holds them: [rows, columns] f32."""
        rows, columns = self.tensor.shape
        count, row = self.piece.rows if self.piece else rows, tensor_bytes((1, columns), self.format)
        data = self.data[self.first * row : (self.first + count) * row].reshape(count, row)
        return decode(torch.from_numpy(np.array(data)), self.format, columns)

    def stored(self, node: fx.Node) -> torch.Tensor:
        """As the weight that the whole tensor is: without its factor, and with its axes of one."""
        values = self.values() if self.tensor.factor is None else self.values() / self.tensor.factor
        return values.reshape(node.meta["val"].shape)


def restore(program: Program, plan: Plan, written: Written, *, compensated: bool) -> None:
    """Let every weight of the program that is not stored as float32 be what the files hold in its place.

    The files stay mapped, under whatever name they get.
    """
    maps = {file: np.memmap(file, np.uint8, "r") for file in written.files}
    parts: dict[str, list[_Part]] = {}
    nodes: dict[str, fx.Node] = {}
    for tensor in plan.tensors:
        format_ = plan.formats[tensor.name].format
        if format_ == "f32" or tensor.bias:
            continue
        file, offset = written.places[tensor.name]
        for node, part in _parts(tensor, format_, maps[file][offset:]):
            parts.setdefault(str(node.target), []).append(part)
            nodes[str(node.target)] = node
    for name, found in parts.items():
        node = nodes[name]
        original = program.weight(node)
        program.set_weight(node, Lazy(_Restored(original, tuple(found), compensated), original.shape))


def _parts(tensor: Tensor, format_: str, data: np.ndarray[Any, np.dtype[np.uint8]]) -> list[tuple[fx.Node, _Part]]:
    if tensor.stored is not None:
        return [(tensor.stored, _Part(tensor, format_, data))]
    found, first = [], 0
    for piece in tensor.pieces:
        found.append((piece.linear.weight, _Part(tensor, format_, data, first, piece)))
        first += piece.rows
    return found


@dataclass
class _Restored:
    """Reads a weight: the original, and over it what each part of the file says. `compensated`: it may have moved."""

    original: torch.Tensor
    parts: Sequence[_Part]
    compensated: bool
    checked: bool = False

    def __call__(self) -> torch.Tensor:
        whole = next((p.stored(p.tensor.stored) for p in self.parts if p.piece is None and p.tensor.stored is not None), None)
        found = read(self.original).float().clone() if whole is None else whole
        for part in self.parts:
            if part.piece is not None:
                put_back(found, part.piece, part.values())
        if not self.checked:  # the file does not change
            self._check(found)
            self.checked = True
        return found

    def _check(self, found: torch.Tensor) -> None:
        """Raises ContractError where the file holds something else than the weight, which no rounding explains."""
        original = read(self.original).float()
        error, size = float((found - original).norm()), float(original.norm())
        limit = max(_EXPLAINED.get(int(FORMATS[part.format].bits), _LEAST) for part in self.parts) + (_MOVED if self.compensated else 0)
        if not error <= limit * size + _VANISHING * math.sqrt(original.numel()):
            tensors = ", ".join(f"{name} ({format_})" for name, format_ in dict.fromkeys((p.tensor.name, p.format) for p in self.parts))
            raise ContractError(
                f"{tensors} in the file is another weight than the model's: they are {error / size if size else error:.3g} of its "
                f"magnitude apart, rounding explains {limit:g}",
                hint="--verify off --cases 0 keeps the file for a bug report",
            )


def put_back(weight: torch.Tensor, piece: Piece, values: torch.Tensor) -> None:
    """Write `values` [rows, columns], which a file has of `piece`, to the rows and columns of `weight` that they came from."""
    linear = piece.linear
    rows, columns = linear.shape
    values = values[:rows, :columns]
    if linear.factors is not None:
        values = values / linear.factors[:, None]
    if linear.columns is not None:
        values = values[:, torch.argsort(linear.columns)]
    if linear.rows is None:
        weight.copy_(values)
    else:
        weight[linear.rows] = values
