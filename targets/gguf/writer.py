"""A GGUF file in one pass: header, keys and places of all tensors first, then the bytes of each as they come.

Format: the GGUF specification, version 3, little endian, data aligned to 32 bytes. A large file may be cut into shards as llama.cpp
reads them: `model-00001-of-00003.gguf` has every key, the others say only which they are.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import torch

from edgecc.errors import InternalError
from edgecc.targets.gguf.blocks import FORMATS
from edgecc.targets.gguf.sizes import tensor_bytes

Scalar: TypeAlias = bool | int | float | str
Value: TypeAlias = Scalar | Sequence[bool] | Sequence[int] | Sequence[float] | Sequence[str]
ALIGNMENT = 32
_UINT16, _UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY, _UINT64 = 2, 4, 5, 6, 7, 8, 9, 10
_LAYOUTS = {_UINT16: "H", _UINT32: "I", _INT32: "i", _FLOAT32: "f", _BOOL: "?", _UINT64: "Q"}
_TYPES = {"split.no": _UINT16, "split.count": _UINT16, "split.tensors.count": _INT32}  # of integers that are not UINT32


@dataclass(frozen=True)
class Planned:
    """A tensor to come: its GGUF name, its shape in torch order, its block format."""

    name: str
    shape: tuple[int, ...]
    format: str

    @property
    def bytes(self) -> int:
        return tensor_bytes(self.shape, self.format)


@dataclass(frozen=True)
class Written:
    """The files, and where the bytes of each tensor stand: its file and the offset in it."""

    files: Sequence[Path]
    places: Mapping[str, tuple[Path, int]]


def write(
    path: Path,
    keys: Mapping[str, Value],
    tensors: Sequence[Planned],
    data: Iterable[torch.Tensor | np.ndarray[Any, Any]],
    *,
    shard_bytes: int = 0,
) -> Written:
    """Write `path`, or its shards where the data is larger than `shard_bytes`.

    `data` yields the bytes of each tensor in the order of `tensors`, of any shape and dtype, and is asked for one at a time.
    Integers are UINT32 (INT32 if negative, UINT64 if they need it), lists of integers INT32, floats FLOAT32.
    A failure leaves files that are not whole: write into a staged folder. Raises InternalError where `data` is not as planned,
    OSError where the disk is full.
    """
    shards = _shards(tensors, shard_bytes)
    paths = _places(path, len(shards))
    coming = iter(data)
    places: dict[str, tuple[Path, int]] = {}
    for number, (place, shard) in enumerate(zip(paths, shards, strict=True)):
        split = {"split.no": number, "split.count": len(shards), "split.tensors.count": len(tensors)} if len(shards) > 1 else {}
        with place.open("wb") as file:
            _write_header(file, {**(keys if number == 0 else {}), **split}, shard)
            for tensor in shard:
                places[tensor.name] = place, file.tell()
                _write_tensor(file, tensor, coming)
    if next(coming, None) is not None:
        raise InternalError(f"more data than the {len(tensors)} tensors planned for {path}")
    return Written(paths, places)


def _places(path: Path, count: int) -> list[Path]:
    if count == 1:
        return [path]
    return [path.with_name(f"{path.stem}-{number:05}-of-{count:05}.gguf") for number in range(1, count + 1)]


def _shards(tensors: Sequence[Planned], limit: int) -> list[list[Planned]]:
    """Tensors in their order; a new shard where the next would go over the limit."""
    shards: list[list[Planned]] = [[]]
    filled = 0
    for tensor in tensors:
        if limit and shards[-1] and filled + tensor.bytes > limit:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += _padded(tensor.bytes)
    return shards


def _write_header(file: BinaryIO, keys: Mapping[str, Value], tensors: Sequence[Planned]) -> None:
    file.write(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)))
    for key, value in keys.items():
        file.write(_string(key) + _typed(key, value))
    offset = 0
    for tensor in tensors:
        dims = tensor.shape[::-1]
        file.write(_string(tensor.name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, FORMATS[tensor.format].code, offset))
        offset += _padded(tensor.bytes)
    _pad(file)


def _write_tensor(file: BinaryIO, tensor: Planned, coming: Iterator[torch.Tensor | np.ndarray[Any, Any]]) -> None:
    data = next(coming, None)
    if data is None:
        raise InternalError(f"the data ends before tensor {tensor.name}")
    array = np.ascontiguousarray(data.numpy(force=True) if isinstance(data, torch.Tensor) else data)
    if array.nbytes != tensor.bytes:
        raise InternalError(
            f"tensor {tensor.name} {list(tensor.shape)} {tensor.format}: {array.nbytes} bytes came, {tensor.bytes} were planned"
        )
    file.write(array.data.cast("B"))
    _pad(file)


def _typed(key: str, value: Value) -> bytes:
    """The type and the value of a key."""
    if isinstance(value, bool | int | float | str):
        kind = _TYPES.get(key) or _kind([value], _unsigned(value))
        return struct.pack("<I", kind) + _packed(kind, [value])
    kind = _kind(value, _INT32)
    return struct.pack("<IIQ", _ARRAY, kind, len(value)) + _packed(kind, value)


def _kind(values: Sequence[Any], integer: int) -> int:
    """The one type of all of them; that of strings where there are none."""
    if not values or isinstance(values[0], str):
        return _STRING
    if all(isinstance(value, bool) for value in values):
        return _BOOL
    return integer if all(isinstance(value, int) for value in values) else _FLOAT32


def _unsigned(value: Scalar) -> int:
    if not isinstance(value, int) or 0 <= value < 1 << 32:
        return _UINT32
    return _INT32 if value < 0 else _UINT64


def _packed(kind: int, values: Sequence[Any]) -> bytes:
    if kind == _STRING:
        return b"".join(_string(value) for value in values)
    return struct.pack(f"<{len(values)}{_LAYOUTS[kind]}", *values)


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _pad(file: BinaryIO) -> None:
    file.write(bytes(-file.tell() % ALIGNMENT))
