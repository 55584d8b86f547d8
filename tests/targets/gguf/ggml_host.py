"""ggml's own quantizers as the independent truth: xllamacpp's shared library, called by ctypes in a child process.

A failed assertion in ggml ends its process, so the library is never loaded into the one that tests. Several jobs go to
one child: it reads arrays from a directory, and leaves its results beside them.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

# ggml type id and the suffix of its functions; values and bytes of a block (ggml-common.h).
TYPES: dict[str, tuple[int, str, int, int]] = {
    "f16": (1, "fp16", 1, 2),
    "bf16": (30, "bf16", 1, 2),
    "q4_0": (2, "q4_0", 32, 18),
    "q4_1": (3, "q4_1", 32, 20),
    "q5_0": (6, "q5_0", 32, 22),
    "q5_1": (7, "q5_1", 32, 24),
    "q8_0": (8, "q8_0", 32, 34),
    "q2_k": (10, "q2_K", 256, 84),
    "q3_k": (11, "q3_K", 256, 110),
    "q4_k": (12, "q4_K", 256, 144),
    "q5_k": (13, "q5_K", 256, 176),
    "q6_k": (14, "q6_K", 256, 210),
    "iq4_nl": (20, "iq4_nl", 32, 18),
    "iq4_xs": (23, "iq4_xs", 256, 136),
}


@dataclass(frozen=True)
class Job:
    """Quantize `values` [rows, cols] f32, with an importance [cols] or without."""

    values: Floats
    format: str
    importance: Floats | None = None


@dataclass(frozen=True)
class Quantized:
    """What ggml wrote, what it reads back, and the processor seconds that one call of its quantizer took."""

    data: Bytes
    values: Floats
    seconds: float


def library() -> Path:
    """The shared library of the xllamacpp wheel; skips the test where it is not installed."""
    import pytest

    spec = importlib.util.find_spec("xllamacpp")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("xllamacpp is not installed")
    return next(Path(spec.submodule_search_locations[0]).glob("xllamacpp*.so"))


def quantize(jobs: Sequence[Job], repeats: int = 1) -> list[Quantized]:
    """Run every job in one child process; the seconds are the least of `repeats` calls."""
    return _run(jobs, [None] * len(jobs), repeats)


def dequantize(data: Sequence[Bytes], formats: Sequence[str], cols: int) -> list[Floats]:
    """What ggml reads in bytes that somebody else wrote, in one child process. data [rows, row bytes] each -> [rows, cols] each."""
    jobs = [Job(np.zeros((len(rows), cols), np.float32), format) for rows, format in zip(data, formats, strict=True)]
    return [result.values for result in _run(jobs, data, 1)]


def _run(jobs: Sequence[Job], written: Sequence[Bytes | None], repeats: int) -> list[Quantized]:
    with tempfile.TemporaryDirectory() as directory:
        for index, (job, data) in enumerate(zip(jobs, written, strict=True)):
            given = {"importance": job.importance, "data": data}
            np.savez(
                Path(directory) / f"{index}.npz",
                values=np.ascontiguousarray(job.values, np.float32),
                format=job.format,
                **{name: value for name, value in given.items() if value is not None},
            )
        command = [sys.executable, __file__, str(library()), directory, str(len(jobs)), str(repeats)]
        subprocess.run(command, check=True, env={**os.environ, "GGML_NO_BACKTRACE": "1", "OMP_NUM_THREADS": "1"})
        results = [np.load(Path(directory) / f"{index}.out.npz") for index in range(len(jobs))]
        return [Quantized(found["data"], found["values"], float(found["seconds"])) for found in results]


def _child(path: str, directory: str, count: int, repeats: int) -> None:
    ggml = ctypes.CDLL(path)
    for index in range(count):
        job = np.load(Path(directory) / f"{index}.npz")
        format, values = str(job["format"]), job["values"]
        data, seconds = (job["data"], 0.0) if "data" in job else _quantize(ggml, values, format, job.get("importance"), repeats)
        np.savez(Path(directory) / f"{index}.out.npz", data=data, values=_dequantize(ggml, data, format, values.shape[1]), seconds=seconds)


def _quantize(ggml: ctypes.CDLL, values: Floats, format: str, importance: Floats | None, repeats: int) -> tuple[Bytes, float]:
    code, _, block, size = TYPES[format]
    rows, cols = values.shape
    data = np.zeros((rows, cols // block * size), np.uint8)
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    weights = None if importance is None else np.ascontiguousarray(importance, np.float32).ctypes.data_as(ctypes.c_void_p)
    least = float("inf")
    for _ in range(repeats):
        began = time.process_time()
        ggml.ggml_quantize_chunk(
            ctypes.c_int(code), values.ctypes.data_as(ctypes.c_void_p), data.ctypes.data_as(ctypes.c_void_p),
            ctypes.c_int64(0), ctypes.c_int64(rows), ctypes.c_int64(cols), weights,
        )  # fmt: skip
        least = min(least, time.process_time() - began)
    return data, least


def _dequantize(ggml: ctypes.CDLL, data: Bytes, format: str, cols: int) -> Floats:
    suffix = TYPES[format][1]
    name = f"ggml_{suffix}_to_fp32_row" if format in ("f16", "bf16") else f"dequantize_row_{suffix}"
    data = np.ascontiguousarray(data)
    values = np.empty((len(data), cols), np.float32)
    getattr(ggml, name)(data.ctypes.data_as(ctypes.c_void_p), values.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(values.size))
    return values


if __name__ == "__main__":
    _child(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
