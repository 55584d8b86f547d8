"""Batches: bind what the user gives to a program's inputs, and run a program on more rows than it was traced with.

A program for a device is often traced with one row. Most graphs compute each row for itself and take any number of them; whether
this one does is found by running it both ways, and a graph that does not is run on pieces of its own size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from edgecc.errors import UsageError
from edgecc.ir.program import Program
from edgecc.ir.signature import Signature, TensorSpec
from edgecc.pipeline.base import Reordered
from edgecc.pipeline.context import Sample
from edgecc.pipeline.numerics import distance
from edgecc.training.task import Item

_ROWS = "rows"


@dataclass(frozen=True)
class Batch:
    """Flat inputs, and a target where there is one."""

    inputs: Sample
    target: Any


def bind(item: Item, signature: Signature) -> Batch:
    """Raises UsageError for inputs that do not fit or hold NaN, which rounding hides; the number of rows is free."""
    free = _with_free_rows(signature)
    given = item.inputs
    if isinstance(given, Mapping):
        inputs = free.bind({str(k): _tensor(v) for k, v in given.items()})
    else:
        inputs = tuple(map(_tensor, given)) if isinstance(given, (tuple, list)) else (_tensor(given),)
        free.check(inputs)
    _check_numbers(inputs, free)
    return Batch(inputs, None if item.target is None else _target(item.target))


def _with_free_rows(signature: Signature) -> Signature:
    """The signature with any size along axis 0, where all inputs have the same one there."""
    if fixed_rows(signature) is None and not _shared_rows(signature):
        return signature
    loose = tuple(replace(spec, shape=(_ROWS, *spec.shape[1:])) for spec in signature.inputs)
    return Signature(loose, signature.outputs, tuple(d for d in signature.dims if d.name != signature.inputs[0].shape[0]))


def _shared_rows(signature: Signature) -> bool:
    first = {spec.shape[:1] for spec in signature.inputs}
    return len(first) == 1 and () not in first


def fixed_rows(signature: Signature) -> int | None:
    """The rows that the program was traced with; None where they are dynamic, or not those of all inputs and outputs."""
    both: tuple[TensorSpec, ...] = (*signature.inputs, *signature.outputs)
    first = {spec.shape[:1] for spec in both}
    rows = next(iter(first), ())
    return rows[0] if len(first) == 1 and rows and isinstance(rows[0], int) and rows[0] else None


def _tensor(value: Any) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    try:
        return torch.from_numpy(np.array(value))
    except (TypeError, ValueError) as error:
        raise UsageError(f"a {type(value).__name__} is no tensor: {error}") from error


def _check_numbers(inputs: Sample, signature: Signature) -> None:
    for spec, x in zip(signature.inputs, inputs, strict=True):
        if x.is_floating_point() and bool(x.isnan().any()):
            raise UsageError(f"{spec.name} holds NaN")


def _target(value: Any) -> Any:
    """Arrays and numbers as tensors; what else a loss of the user's own wants stays as it is."""
    plain = isinstance(value, (torch.Tensor, np.ndarray, list, int, float))
    return _tensor(value) if plain else value


def takes_all_at_once(program: Program, batch: Batch) -> bool:
    """Whether the rows of a batch come out as they do in pieces of the program's own size. `program` is in floating point."""
    size, count = fixed_rows(program.signature), len(batch.inputs[0])
    if size is None or size == count:
        return True
    try:
        whole = program(*batch.inputs)
    except (RuntimeError, IndexError):
        return False
    if any(len(out) != count for out in whole):
        return False
    for piece in (torch.arange(size) % count, torch.arange(count - size, count) % count):
        alone = program(*(x[piece] for x in batch.inputs))
        if distance(alone, [out[piece] for out in whole]).broken(Reordered()):
            return False
    return True


def check_pieces(batch: Batch, rows: int) -> None:
    """Raises UsageError where the batch is not made of whole pieces."""
    if len(batch.inputs[0]) % rows:
        raise UsageError(
            f"a batch has {len(batch.inputs[0])} rows, want a multiple of {rows}: the program takes no other number at once",
            hint="leave the last rows out, or trace the model with a dynamic first dimension: --input 'x:f32[batch=1..64,...]'",
        )


def forward(program: Program, inputs: Sample, rows: int | None) -> tuple[torch.Tensor, ...]:
    """The outputs, with gradients where they are enabled."""
    if rows is None:
        return tuple(program.module(*inputs))
    pieces = [program.module(*(x[i : i + rows] for x in inputs)) for i in range(0, len(inputs[0]), rows)]
    return tuple(torch.cat(parts) for parts in zip(*pieces, strict=True))
