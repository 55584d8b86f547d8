"""`tools/bench.py gguf-blocks`: throughput and error of the block encoders, ours beside ggml's, on one core.

Gaussian weights, seed 0. MB/s are megabytes of float32 read for each processor second, the best of a few calls of each; the
error is the root mean square one (weighted by the importance where there is one), ours over ggml's. The last table
encodes the same matrix in one and in two workers at once, processes and threads: how many times as much they get done.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np
import torch

from edgecc.targets.gguf.blocks import FORMATS, decode, encode
from tests.targets.gguf.ggml_host import Job, Quantized, quantize

ROWS, COLS, REPEATS = 1024, 4096, 3
PLAIN = ("q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs", "f16", "bf16")
WEIGHTED = ("q4_0", "q4_1", "q5_0", "q5_1", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs")


def table() -> None:
    """Print a line for each format, without and with an importance, then how two workers scale."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(ROWS, COLS, generator=generator)
    importance = torch.rand(COLS, generator=generator) + 0.1
    cases = [(name, None) for name in PLAIN] + [(name, importance) for name in WEIGHTED]
    print(f"{'format':10}{'importance':>12}{'ours MB/s':>12}{'ggml MB/s':>12}{'speed':>8}{'error':>9}  bytes")
    for name, weight in cases:
        (theirs,) = quantize([Job(values.numpy(), name, None if weight is None else weight.numpy())], REPEATS)
        _line(name, values, weight, theirs)
    print(f"\n{'two workers':10}{'processes':>12}{'threads':>10}")
    for name in ("q8_0", "q4_k", "q6_k"):
        print(f"{name:11}{_scaling(_processes, name):11.2f}x{_scaling(ThreadPoolExecutor, name):9.2f}x")


def _line(name: str, values: torch.Tensor, importance: torch.Tensor | None, theirs: Quantized) -> None:
    seconds = min(_timed(values, name, importance) for _ in range(REPEATS))
    data = encode(values, name, importance)
    mass = torch.ones(COLS) if importance is None else importance
    ours, ggml = (((read - values).square() * mass).mean().sqrt() for read in (decode(data, name, COLS), torch.from_numpy(theirs.values)))
    megabytes = values.numel() * 4 / 1e6
    print(
        f"{name:10}{'yes' if importance is not None else '':>12}{megabytes / seconds:12.0f}{megabytes / theirs.seconds:12.0f}"
        f"{theirs.seconds / seconds:8.2f}{ours / ggml:9.4f}  {'same' if np.array_equal(data.numpy(), theirs.data) else f'{FORMATS[name].bits:.4g} bits'}"
    )


def _timed(values: torch.Tensor, name: str, importance: torch.Tensor | None) -> float:
    began = time.process_time()
    encode(values, name, importance)
    return time.process_time() - began


def _processes(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"))


def _scaling(pool: Callable[[int], Executor], name: str) -> float:
    """Wall seconds of one worker over those of two that each do as much, the best of a few."""
    with pool(1) as one, pool(2) as two:
        for executor, workers in ((one, 1), (two, 2)):
            list(executor.map(_work, [name] * workers, [1] * workers))
        alone = min(_wall(one, 1, name) for _ in range(REPEATS))
        return 2 * alone / min(_wall(two, 2, name) for _ in range(REPEATS))


def _wall(executor: Executor, workers: int, name: str) -> float:
    began = time.perf_counter()
    list(executor.map(_work, [name] * workers, [16 if name == "q8_0" else 4] * workers))
    return time.perf_counter() - began


def _work(name: str, times: int) -> None:
    torch.set_num_threads(1)
    values = torch.randn(256, COLS, generator=torch.Generator().manual_seed(0))
    for _ in range(times):
        encode(values, name)


if __name__ == "__main__":
    table()
