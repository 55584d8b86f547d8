"""Weights of safetensors files that stay there until an operation uses them: one file, or shards with their index.

A safetensors file is the length of its header (8 bytes, little endian), the header (JSON: dtype, shape and place of each
tensor) and the bytes. Everything that the header promises is checked before any tensor is made.
Source: the format's specification in the safetensors repository.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from io import BufferedReader, FileIO
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch

from edgecc.errors import UsageError
from edgecc.ir.lazy import Lazy

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_LONGEST_HEADER = 100_000_000
_CHUNK = 1 << 22
_AGAIN = "copy or download the file again"
_DTYPES = {
    **{"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"},
    **{"F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz", "F8_E8M0": "float8_e8m0fnu", "C64": "complex64"},
    **{"I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool"},
    **{"U64": "uint64", "U32": "uint32", "U16": "uint16"},
}


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: `size` bytes from byte `start`. `stamp` tells the file from what may replace it later.

    Called, it reads the values, cast to `dtype`, a chunk at a time: no second copy. Raises UsageError for a file that
    changed or went.
    """

    path: Path
    stored: torch.dtype
    shape: tuple[int, ...]
    start: int
    stamp: tuple[int, int]
    dtype: torch.dtype

    @property
    def size(self) -> int:
        return math.prod(self.shape) * self.stored.itemsize

    def rows(self, start: int, stop: int) -> Stored:
        """The tensor `[start:stop]`."""
        row = math.prod(self.shape[1:]) * self.stored.itemsize
        return replace(self, shape=(stop - start, *self.shape[1:]), start=self.start + start * row)

    def __call__(self) -> torch.Tensor:
        values = torch.empty(self.shape, dtype=self.dtype)
        try:
            with self.path.open("rb", buffering=0) as file:
                if _stamp(file) != self.stamp:
                    raise UsageError(f"{self.path} was changed while the model was in use", hint="start again, and leave the file alone")
                file.seek(self.start)
                self._fill(values.view(-1), file)
        except OSError as error:
            raise UsageError(f"{self.path} cannot be read: {error}", hint="it must stay in place while the model is in use") from error
        return values

    def _fill(self, flat: torch.Tensor, file: FileIO) -> None:
        chunk = torch.empty(min(_CHUNK, self.size), dtype=torch.uint8)
        for begin in range(0, self.size, _CHUNK):
            part = chunk[: min(_CHUNK, self.size - begin)]
            view, done = memoryview(part.numpy().data), 0
            while done < len(view):
                count = file.readinto(view[done:])
                if not count:
                    raise UsageError(f"{self.path} ended before its last tensor", hint=_AGAIN)
                done += count
            first, numbers = begin // self.stored.itemsize, part.view(self.stored)
            flat[first : first + len(numbers)] = numbers


def has_weights(directory: Path) -> bool:
    """Whether the directory has weights under the names that `stored_tensors` reads."""
    return (directory / _SINGLE).is_file() or (directory / _INDEX).is_file()


def stored_tensors(directory: Path) -> dict[str, Stored]:
    """The tensors of `model.safetensors`, else of the shards that `model.safetensors.index.json` names.

    Raises UsageError that names every file that is damaged, cut short, missing or outside of the directory, and every
    tensor that is not where the index says.
    """
    if (directory / _SINGLE).is_file():
        return read_header(directory / _SINGLE)
    index = directory / _INDEX
    places = _read_index(index)
    shards = sorted(set(places.values()))
    missing = [name for name in shards if not (directory / name).is_file()]
    if missing:
        raise UsageError(f"{index} names files that are not there: {_listed(missing)}", hint="copy all files of the model")
    found: dict[str, Stored] = {}
    for name in shards:
        found |= read_header(directory / name)
    lost = [f"{tensor} ({shard})" for tensor, shard in places.items() if tensor not in found or found[tensor].path.name != shard]
    if lost:
        raise UsageError(f"tensors are not in the files that {index} says: {_listed(lost)}", hint="are the files of one model?")
    return found


def lazy_tensors(stored: Mapping[str, Stored]) -> dict[str, torch.Tensor]:
    """Floating-point tensors as lazy ones in float32, the others with their values."""
    return {name: Lazy(s, s.shape, s.dtype) if s.dtype.is_floating_point and s.size else s() for name, s in stored.items()}


def read_header(path: Path) -> dict[str, Stored]:
    """The tensors of one file, by name. Raises UsageError for a file that is not as its header says."""
    path = path.absolute()
    try:
        with path.open("rb") as file:
            stamp = _stamp(file)
            total = stamp[0]
            length = int.from_bytes(file.read(8), "little")
            if total < 8 or length > min(total - 8, _LONGEST_HEADER):
                raise _damaged(path, f"its header would have {length} bytes, the file has {total}")
            text = file.read(length)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"its header is no JSON: {error}") from error
    if not isinstance(header, dict):
        raise _damaged(path, "its header is no JSON object")
    start = 8 + length
    found = {name: _entry(path, name, entry, start, stamp) for name, entry in header.items() if name != "__metadata__"}
    _require_whole(path, found, start, total)
    return found


def _entry(path: Path, name: str, entry: Any, start: int, stamp: tuple[int, int]) -> Stored:
    if not isinstance(entry, dict) or not _is_sizes(entry.get("shape")) or not _is_sizes(entry.get("data_offsets")):
        raise _damaged(path, f"its header does not describe {name!r}")
    dtype = getattr(torch, _DTYPES.get(str(entry.get("dtype")), ""), None)
    if dtype is None:
        raise UsageError(f"{path}: {name!r} has the type {entry.get('dtype')!r}, which PyTorch {torch.__version__} does not have")
    shape, offsets = tuple(entry["shape"]), entry["data_offsets"]
    size = math.prod(shape) * dtype.itemsize
    if len(offsets) != 2 or offsets[1] - offsets[0] != size:
        raise _damaged(path, f"{name!r} {list(shape)} takes {size} bytes, its header says from {offsets}")
    return Stored(path, dtype, shape, start + offsets[0], stamp, torch.float32 if dtype.is_floating_point else dtype)


def _require_whole(path: Path, found: Mapping[str, Stored], start: int, total: int) -> None:
    """Require the tensors to lie one behind the other up to the end of the file."""
    end = start
    for name, stored in sorted(found.items(), key=lambda item: (item[1].start, item[1].size)):
        if stored.start != end:
            raise _damaged(path, f"{name!r} begins at byte {stored.start}, want {end}")
        end += stored.size
    if total != end:
        raise _damaged(path, f"it has {total} bytes, its header wants {end}")


def _read_index(path: Path) -> dict[str, str]:
    """File names by tensor. Raises UsageError for a damaged index, and for a name that leads out of the directory."""
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read: {error}", hint=_AGAIN) from error
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise UsageError(f"{path} has no weight_map of tensor names to file names", hint=_AGAIN)
    for name in places.values():
        if name in ("", ".", "..") or PurePosixPath(name).name != name or PureWindowsPath(name).name != name:
            raise UsageError(f"{path} names {name!r}, which is no plain file name", hint="shards lie beside their index")
    return places


def _stamp(file: FileIO | BufferedReader) -> tuple[int, int]:
    found = os.fstat(file.fileno())
    return found.st_size, found.st_mtime_ns


def _is_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(v) is int and v >= 0 for v in value)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def _damaged(path: Path, why: str) -> UsageError:
    return UsageError(f"{path} is a damaged safetensors file: {why}", hint=_AGAIN)
