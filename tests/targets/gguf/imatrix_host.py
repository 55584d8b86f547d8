"""llama.cpp's own reader of importance matrix files: `common_imatrix_load` of the library that tools/llama-oracle fetches.

`python imatrix_host.py FOLDER FILE` is a process of its own: it calls a C++ function, and reads the std::map that it fills where
libstdc++ keeps one, which a mistake would not survive.
"""

from __future__ import annotations

import ctypes as c
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

_LOAD = "_Z19common_imatrix_loadRKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEER14common_imatrix"
_WORD = 8
_STRING, _VECTOR, _MAP, _NODE = 4 * _WORD, 3 * _WORD, 6 * _WORD, 4 * _WORD  # bytes of std::string, std::vector, std::map, its nodes


def load(folder: Path, file: Path) -> dict[str, Any]:
    """What llama.cpp reads: `entries` (sums and counts by name), `datasets`, `chunk_count`, `chunk_size`."""
    command = [sys.executable, __file__, str(folder), str(file)]
    done = subprocess.run(command, env=os.environ | {"GGML_NO_BACKTRACE": "1"}, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _word(address: int) -> int:
    return c.c_uint64.from_address(address).value


def _text(address: int) -> str:
    return c.string_at(_word(address), _word(address + _WORD)).decode()


def _vector(address: int, kind: Any) -> list[Any]:
    start, end = _word(address), _word(address + _WORD)
    return list((kind * ((end - start) // c.sizeof(kind))).from_address(start)) if start else []


def _entries(node: int) -> dict[str, Any]:
    """Of a node of the tree and those below it. After the name stand the sums, perhaps another vector, and the counts."""
    if not node:
        return {}
    value = node + _NODE
    counts = next(found for i in (1, 2) if (found := _vector(value + _STRING + i * _VECTOR, c.c_int64)))
    entry = {_text(value): {"sums": _vector(value + _STRING, c.c_float), "counts": counts}}
    return {**_entries(_word(node + 2 * _WORD)), **entry, **_entries(_word(node + 3 * _WORD))}


def main() -> None:
    library = c.CDLL(str(Path(sys.argv[1]) / "libllama-common.so"))
    matrix = c.create_string_buffer(512)  # an empty struct common_imatrix: a map, a vector of strings, two int32, flags
    base = c.addressof(matrix)
    c.c_uint64.from_address(base + 3 * _WORD).value = c.c_uint64.from_address(base + 4 * _WORD).value = base + _WORD
    path = sys.argv[2].encode()
    text = (c.c_uint64 * 4)(c.addressof(held := c.create_string_buffer(path)), len(path))
    load = getattr(library, _LOAD)
    load.restype = c.c_bool
    assert load(c.byref(text), matrix), held.value
    names = _word(base + _MAP), _word(base + _MAP + _WORD)
    counts = (c.c_int32 * 2).from_address(base + _MAP + _VECTOR)
    json.dump(
        {
            "entries": _entries(_word(base + 2 * _WORD)),
            "datasets": [_text(place) for place in range(*names, _STRING)],
            "chunk_count": counts[0],
            "chunk_size": counts[1],
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
