"""The bytes of every tensor of a file, in its order: read, encoded and let go one after another."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from edgecc.diagnostics import Progress
from edgecc.ir.program import Program
from edgecc.targets.gguf.architectures.tensors import Tensor
from edgecc.targets.gguf.blocks import encode
from edgecc.targets.gguf.plan import Plan


def encoded(program: Program, plan: Plan, progress: Progress, threads: int = 1) -> Iterator[torch.Tensor]:
    """The bytes of each tensor, uint8, the same for any number of threads; so many tensors are in memory at once."""
    layers = len(plan.model.layers)
    for tensor, data in zip(plan.tensors, _in_order(program, plan, threads), strict=True):
        if tensor.name.startswith("blk.") and tensor.name.endswith("ffn_down.weight"):
            progress.detail(f"layer {int(tensor.name.split('.')[1]) + 1} of {layers}")
        yield data


def _in_order(program: Program, plan: Plan, threads: int) -> Iterator[torch.Tensor]:
    if threads < 2:
        for tensor in plan.tensors:
            yield encode_tensor(program, plan, tensor)
        return
    pending: deque[Future[torch.Tensor]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for tensor in plan.tensors:
            pending.append(pool.submit(encode_tensor, program, plan, tensor))
            if len(pending) == threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def encode_tensor(program: Program, plan: Plan, tensor: Tensor, importance: torch.Tensor | None = None) -> torch.Tensor:
    """[rows, row bytes] uint8. `importance` [columns] f32: how much the error of each column matters, None for all the same."""
    values = tensor.read(program)
    return encode(values.reshape(-1, values.shape[-1]), plan.formats[tensor.name].format, importance)
