"""Protocol: a message between parent and child is one line of JSON and then the arrays that it announces.

`{"command": "logits", "arrays": [["<i4", [5]]]}`, a line feed, and 20 bytes. Arrays are little-endian and contiguous.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import IO, Any

import numpy as np

Array = np.ndarray[Any, Any]
_TYPES = ("<f4", "<i4")


def send(stream: IO[bytes], fields: Mapping[str, Any], arrays: Sequence[Array] = ()) -> None:
    """Write a message and flush. Arrays are f32 or i32."""
    ordered = [np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")) for array in arrays]
    assert all(array.dtype.str in _TYPES for array in ordered)
    header = {**fields, "arrays": [[array.dtype.str, list(array.shape)] for array in ordered]}
    stream.write(json.dumps(header).encode() + b"\n")
    for array in ordered:
        stream.write(array.tobytes())
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[dict[str, Any], list[Array]]:
    """Read a message. Raises EOFError where the other side has gone, also in the middle of one."""
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    fields = json.loads(line)
    return fields, [_read(stream, kind, shape) for kind, shape in fields.pop("arrays")]


def _read(stream: IO[bytes], kind: str, shape: Sequence[int]) -> Array:
    assert kind in _TYPES
    count = math.prod(shape) * np.dtype(kind).itemsize
    data = stream.read(count)
    if len(data) != count:
        raise EOFError
    return np.frombuffer(data, kind).reshape(shape)
