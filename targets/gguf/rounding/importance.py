"""Importance matrix files: the sums of squares of the inputs of each tensor, as llama.cpp's `llama-imatrix` writes them.

Format, from llama.cpp's common/imatrix-loader.h: a GGUF file of `general.type` "imatrix" with two F32 tensors for each tensor of the
model, `NAME.in_sum2` of its columns and `NAME.counts` of one number, or of one for each expert. Older files are little endian records
of int32 and float32: the number of entries; for each its name, calls, number of values and values, a mean of squares times calls.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from edgecc.errors import UsageError
from edgecc.targets.gguf.rounding.moments import Moments, above_zero
from edgecc.targets.gguf.writer import Planned, Value, write

_SUMS, _COUNTS = ".in_sum2", ".counts"


@dataclass(frozen=True)
class ImportanceMatrix:
    """Means of x^2 of the columns of tensors by their GGUF names, f32 [columns], or [experts, columns]; `counts`: over how many x.

    `datasets`: the files of text, `chunks` of `chunk_size` tokens of which were read; 0 where it is not known.
    """

    means: Mapping[str, torch.Tensor]
    counts: Mapping[str, int]
    datasets: Sequence[str] = ()
    chunks: int = 0
    chunk_size: int = 0

    def importance(self, name: str, columns: int) -> torch.Tensor | None:
        """Of the columns of a tensor [columns] f32, all above 0; None where it is not listed. Raises UsageError for another width."""
        mean = self.means.get(name)
        if mean is None:
            return None
        if mean.shape[-1] != columns:
            raise UsageError(f"the importance matrix has {mean.shape[-1]} columns for {name}, the model {columns}: it is of another model")
        return above_zero(mean.reshape(-1, columns).mean(0))


def from_moments(moments: Mapping[str, Moments], *, datasets: Sequence[str] = (), chunks: int = 0, chunk_size: int = 0) -> ImportanceMatrix:
    """Of the tensors by GGUF name."""
    means = {name: m.means for name, m in moments.items()}
    return ImportanceMatrix(means, {name: m.count for name, m in moments.items()}, datasets, chunks, chunk_size)


def write_importance(path: Path, matrix: ImportanceMatrix) -> None:
    """Write what `llama-quantize --imatrix` reads."""
    keys: dict[str, Value] = {
        "general.type": "imatrix",
        "imatrix.datasets": list(matrix.datasets),
        "imatrix.chunk_count": matrix.chunks,
        "imatrix.chunk_size": matrix.chunk_size,
    }
    planned, data = [], []
    for name, mean in matrix.means.items():
        experts = mean.reshape(-1, mean.shape[-1]).shape[0]
        counts = torch.full((experts, 1), float(matrix.counts[name]))
        planned += [Planned(name + _SUMS, (experts, mean.shape[-1]), "f32"), Planned(name + _COUNTS, (experts, 1), "f32")]
        data += [mean.float() * matrix.counts[name], counts]
    write(path, keys, planned, data)


def read_importance(path: Path) -> ImportanceMatrix:
    """Read a file of `llama-imatrix`, GGUF or older. Raises UsageError where it is neither, or not whole."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    try:
        return _read_gguf(path) if data[:4] == b"GGUF" else _read_records(data)
    except (ValueError, IndexError, KeyError, OverflowError, struct.error) as error:
        raise UsageError(
            f"{path} is no importance matrix, or is not whole: {error}", hint="llama-imatrix writes one, and edgecc with --calibration"
        ) from error


def _read_gguf(path: Path) -> ImportanceMatrix:
    from gguf import GGUFReader

    reader = GGUFReader(path)
    fields = {name: entry.contents() for name, entry in reader.fields.items()}
    arrays = {t.name: np.array(t.data, np.float32) for t in reader.tensors}
    means, numbers = {}, {}
    for name, sums in arrays.items():
        if not name.endswith(_SUMS):
            continue
        stem = name.removesuffix(_SUMS)
        counts = arrays[stem + _COUNTS].reshape(-1, 1)
        mean = torch.from_numpy(sums.reshape(len(counts), -1) / np.maximum(counts, 1))
        means[stem], numbers[stem] = mean if len(counts) > 1 else mean[0], round(float(counts.mean()))
    if not means:
        raise ValueError(f"no tensor named *{_SUMS}")
    chunks, size = (int(fields.get(f"imatrix.{key}", 0)) for key in ("chunk_count", "chunk_size"))
    return _checked(ImportanceMatrix(means, numbers, tuple(fields.get("imatrix.datasets", ())), chunks, size))


def _read_records(data: bytes) -> ImportanceMatrix:
    place = 0

    def take(count: int) -> bytes:
        nonlocal place
        if count < 0 or place + count > len(data):
            raise ValueError(f"{count} bytes wanted at byte {place} of {len(data)}")
        place += count
        return data[place - count : place]

    def number() -> int:
        found: int = struct.unpack("<i", take(4))[0]
        return found

    means, counts = {}, {}
    for _ in range(number()):
        name = take(number()).decode()
        calls = number()
        values = np.frombuffer(take(4 * number()), "<f4").astype(np.float32)
        means[name], counts[name] = torch.from_numpy(values / max(1, calls)), calls
    if not means:
        raise ValueError("it lists nothing")
    if place == len(data):
        return _checked(ImportanceMatrix(means, counts))
    chunks = number()
    return _checked(ImportanceMatrix(means, counts, (take(number()).decode(),), chunks))


def _checked(matrix: ImportanceMatrix) -> ImportanceMatrix:
    for name, mean in matrix.means.items():
        if not bool(torch.isfinite(mean).all()) or bool((mean < 0).any()):
            raise ValueError(f"{name} has numbers that are no means of squares")
    return matrix
