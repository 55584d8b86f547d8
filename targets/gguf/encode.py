"""The bytes of every tensor of a file, in its order: read, encoded and let go one after another."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import torch
from torch import fx

from edgecc.diagnostics import Progress
from edgecc.errors import UsageError
from edgecc.ir.lazy import read
from edgecc.ir.program import Program
from edgecc.targets.gguf.architectures.tensors import Tensor, finite, weight_of
from edgecc.targets.gguf.blocks import encode
from edgecc.targets.gguf.plan import Plan
from edgecc.targets.gguf.rounding.importance import ImportanceMatrix
from edgecc.targets.gguf.sizes import tensor_bytes
from edgecc.targets.gguf.workers import in_processes

_AT_ONCE = 1 << 20  # numbers that are read at once


def encoded(program: Program, plan: Plan, progress: Progress, workers: int = 1) -> Iterator[torch.Tensor]:
    """The bytes of each tensor, uint8, the same for any number of worker processes; each has one tensor in memory."""
    work = partial(encode_tensor, program, plan)
    made = (work(tensor) for tensor in plan.tensors) if workers < 2 else in_processes(work, plan.tensors, workers)
    layers = len(plan.model.layers)
    for tensor, data in zip(plan.tensors, made, strict=True):
        if tensor.name.startswith("blk.") and tensor.name.endswith("ffn_down.weight"):
            progress.detail(f"layer {int(tensor.name.split('.')[1]) + 1} of {layers}")
        yield data


def weighed(program: Program, plan: Plan, matrix: ImportanceMatrix) -> Iterator[torch.Tensor]:
    """The bytes of each tensor, rounded by the importance of its columns. Raises UsageError where the matrix has other columns."""
    for tensor in plan.tensors:
        known = matrix.importance(tensor.name, tensor.shape[-1]) if len(tensor.shape) > 1 else None
        yield encode_tensor(program, plan, tensor, known)


def encode_tensor(program: Program, plan: Plan, tensor: Tensor, importance: torch.Tensor | None = None) -> torch.Tensor:
    """[rows, row bytes] uint8. `importance` [columns] f32: how much the error of each column matters, None for all the same.

    Rows are read and encoded a few at a time, so that what is in memory of a large tensor are its bytes.
    """
    format_, columns = plan.formats[tensor.name].format, tensor.shape[-1]
    data = torch.empty(math.prod(tensor.shape[:-1]), tensor_bytes((1, columns), format_), dtype=torch.uint8)
    done = 0
    for rows in _rows(program, tensor):
        try:
            data[done : done + len(rows)] = encode(rows, format_, importance)
        except UsageError as error:
            raise UsageError(f"{tensor.name}, rows from {done} on: {error.message}", hint=error.hint) from error
        done += len(rows)
    return data


def _rows(program: Program, tensor: Tensor) -> Iterator[torch.Tensor]:
    """The numbers of a tensor, [n, columns] f32 at a time."""
    plain = tensor.order is None and tensor.factor is None
    if tensor.stored is not None and plain and tensor.stored.meta["val"].dim() == 2:
        yield from _slices(program, tensor.stored)
    elif tensor.pieces and not tensor.bias:
        for piece in tensor.pieces:
            linear = piece.linear
            if linear.rows is None and linear.columns is None and linear.factors is None and linear.shape == (piece.rows, piece.columns):
                yield from _slices(program, linear.weight)
            else:
                yield weight_of(program, piece)
    else:
        yield tensor.read(program).reshape(-1, tensor.shape[-1])


def _slices(program: Program, node: fx.Node) -> Iterator[torch.Tensor]:
    weight = program.weight(node)
    count = max(1, _AT_ONCE // weight.shape[1])
    for first in range(0, len(weight), count):
        yield finite(node, read(weight[first : first + count]).float())
