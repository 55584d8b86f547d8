"""Signature: the flat, named inputs and outputs of a program, and its dynamic dimensions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from edgecc.errors import UsageError
from edgecc.ir.dtypes import dtype_name


@dataclass(frozen=True)
class Dim:
    """A named dynamic dimension with inclusive bounds. `upper` is None where it is unbounded.

    `symbol` is the name that torch.export gave it in the shapes of the graph.
    """

    name: str
    lower: int = 1
    upper: int | None = None
    symbol: str = ""

    def __str__(self) -> str:
        return f"{self.name}={self.lower}..{self.upper if self.upper is not None else ''}"


@dataclass(frozen=True)
class TensorSpec:
    """One input or output. A dimension is an int, or text over dimension names such as `2*seq`."""

    name: str
    dtype: torch.dtype
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name}: {dtype_name(self.dtype)}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Signature:
    """What goes in and comes out, in the order of the graph's placeholders and outputs."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    dims: tuple[Dim, ...] = ()

    def check(self, tensors: Sequence[torch.Tensor]) -> dict[str, int]:
        """Bind the dimension names to the sizes of `tensors`, one for each input.

        Raises UsageError that lists every wrong count, dtype, rank, size or bound.
        """
        if len(tensors) != len(self.inputs):
            raise UsageError(f"{len(tensors)} inputs were given, the program takes {len(self.inputs)}: " + "; ".join(map(str, self.inputs)))
        sizes: dict[str, int] = {}
        wrong = [p for spec, tensor in zip(self.inputs, tensors, strict=True) for p in _problems(spec, tensor, sizes)]
        bounds = {d.name: d for d in self.dims}
        for name, size in sizes.items():
            dim = bounds.get(name)
            if dim and not dim.lower <= size <= (dim.upper if dim.upper is not None else math.inf):
                wrong.append(f"dimension {name} is {size}, want {dim}")
        if wrong:
            raise UsageError("the inputs do not fit the program: " + "; ".join(wrong))
        return sizes

    def bind(self, named: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Order tensors given by name, and check them. Raises UsageError for missing or unknown names."""
        names = [spec.name for spec in self.inputs]
        missing, unknown = [n for n in names if n not in named], [n for n in named if n not in names]
        if missing or unknown:
            raise UsageError(
                f"inputs missing: {missing or 'none'}; unknown: {unknown or 'none'}; the program takes " + "; ".join(map(str, self.inputs))
            )
        tensors = tuple(named[n] for n in names)
        self.check(tensors)
        return tensors


def _problems(spec: TensorSpec, tensor: torch.Tensor, sizes: dict[str, int]) -> list[str]:
    if tensor.dtype != spec.dtype:
        return [f"{spec.name} is {dtype_name(tensor.dtype)}, want {dtype_name(spec.dtype)}"]
    if tensor.dim() != len(spec.shape):
        return [f"{spec.name} has shape {list(tensor.shape)}, want {spec}"]
    wrong = []
    for axis, (want, size) in enumerate(zip(spec.shape, tensor.shape, strict=True)):
        want = sizes.setdefault(want, size) if isinstance(want, str) and want.isidentifier() else want
        if isinstance(want, int) and want != size:
            wrong.append(f"{spec.name} has size {size} at axis {axis}, want {want}")
    return wrong
