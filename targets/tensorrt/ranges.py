"""Ranges: the smallest, the best and the largest shape of every dynamic input, as TensorRT wants them before it builds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from edgecc.errors import UsageError
from edgecc.ir.dtypes import dtype_name
from edgecc.ir.fake import size_expression
from edgecc.ir.program import Program
from edgecc.ir.signature import Dim, TensorSpec

_SUGGESTED = 8  # an upper bound to write where the example is smaller


@dataclass(frozen=True)
class Range:
    """One dynamic input. `best` is the shape that the program was traced with, for which TensorRT tunes."""

    name: str
    least: tuple[int, ...]
    best: tuple[int, ...]
    most: tuple[int, ...]


def ranges(program: Program) -> list[Range]:
    """The dynamic inputs of a program. Raises UsageError, with the `--input` flags to write, where a dimension is unbounded.

    TensorRT documentation, Working with Dynamic Shapes: an optimization profile names all three shapes of each of them.
    """
    _refuse_unbounded(program)
    found = []
    for node, spec, example in zip(program.inputs(), program.signature.inputs, program.examples, strict=True):
        if all(isinstance(d, int) for d in spec.shape):
            continue
        sizes = [size_expression(s) for s in node.meta["val"].shape]
        ends = [[_at(s, {d.symbol: bound(d) for d in program.signature.dims}) for s in sizes] for bound in (_lower, _upper)]
        least, most = (tuple(map(choose, *ends)) for choose in (min, max))
        found.append(Range(spec.name, least, tuple(example.shape), most))
    return found


def _lower(dim: Dim) -> int:
    return dim.lower


def _upper(dim: Dim) -> int:
    assert dim.upper is not None
    return dim.upper


def _at(size: Any, values: Mapping[str, int]) -> int:
    return size if isinstance(size, int) else int(size.subs({s: values[str(s)] for s in size.free_symbols}))


def _refuse_unbounded(program: Program) -> None:
    signature = program.signature
    open_ends = {d.name: d for d in signature.dims if d.upper is None}
    if not open_ends:
        return
    pairs = zip(signature.inputs, program.examples, strict=True)
    flags = [_flag(spec, example, signature.dims) for spec, example in pairs if open_ends.keys() & set(spec.shape)]
    raise UsageError(
        f"no upper bound for the dimension{'s' * (len(open_ends) > 1)} {', '.join(map(str, open_ends.values()))} of the inputs: "
        "TensorRT builds an engine for shapes between a smallest and a largest one",
        hint=" ".join(flags) or "give every dynamic dimension bounds, for example batch=1..8",
    )


def _flag(spec: TensorSpec, example: torch.Tensor, dims: Sequence[Dim]) -> str:
    """`--input "x:f32[batch=1..8,3]"`, with twice the example's size for a bound that is missing."""
    named = {d.name: d for d in dims}
    sizes = []
    for written, size in zip(spec.shape, example.shape, strict=True):
        dim = named.get(str(written))
        upper = dim.upper if dim and dim.upper is not None else max(2 * size, _SUGGESTED)
        sizes.append(f"{dim.name}={dim.lower}..{upper}" if dim else str(written))
    return f'--input "{spec.name}:{dtype_name(spec.dtype)}[{",".join(sizes)}]"'
