"""llama.cpp's own quantizer, `llama_model_quantize` of the library that tools/llama-oracle fetches, in a process of its own.

`python quantize_oracle.py FOLDER` with jobs as JSON at its input is that process: ggml ends a process it finds wrong, and two builds of it in one
process corrupt memory.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

VERSION = "3.22.1"  # as in tools/llama-oracle
_DEFAULTS = [0, 7, 43, 43, 1 << 8, 0]  # of llama_model_quantize_params: threads, file type, two types of tensors, flags
_LINE = re.compile(r"\[ *\d+/ *\d+\] +(\S+) +- \[[^\]]*\], type = +(\w+), (?:converting to (\w+) \.\. )?size = [^\n]*?(?:\((\w+)\))?\n")


@dataclass(frozen=True)
class Job:
    """One call. `file_type` and the types of `overrides` are llama.cpp's numbers; `destination` empty: a dry run.

    `importance`: an .npz with a float32 vector of the columns for each tensor that is weighed, by name; empty: no importance matrix.
    """

    source: str
    file_type: int
    destination: str = ""
    overrides: tuple[tuple[str, int], ...] = ()
    importance: str = ""
    threads: int = 1


def folder() -> Path | None:
    """Where the libraries are, None where they are not."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    place = Path(os.environ.get("EDGECC_LLAMA_ORACLE") or cache / "edgecc" / "llama-oracle" / VERSION)
    return place / "bins" / "linux-x64" if (place / ".complete").exists() else None


def require() -> None:
    """Skip the test where the libraries are not."""
    import pytest

    if folder() is None:
        pytest.skip("llama.cpp's quantizer is not here (tools/llama-oracle)")


def quantize(jobs: Sequence[Job]) -> list[dict[str, str] | None]:
    """For each job the types of the tensors of the file by name, None where llama.cpp refuses."""
    environment = os.environ | {"GGML_NO_BACKTRACE": "1"}
    done = subprocess.run(command(), input=written(jobs), env=environment, capture_output=True, text=True, check=True)
    found: list[dict[str, str] | None] = json.loads(done.stdout)
    return found


def command() -> list[str]:
    """What starts that process, for those who measure it."""
    return [sys.executable, __file__, str(folder())]


def written(jobs: Sequence[Job]) -> str:
    """What it reads."""
    return json.dumps([asdict(job) for job in jobs])


class _Parameters(ctypes.Structure):
    _fields_ = [
        ("threads", ctypes.c_int32),
        ("file_type", ctypes.c_int32),
        ("types", ctypes.c_int32 * 2),
        ("flags", ctypes.c_uint8 * 6),  # allow_requantize, quantize_output_tensor, only_copy, pure, keep_split, dry_run
        ("importance", ctypes.c_void_p),
        ("keys", ctypes.c_void_p),
        ("overrides", ctypes.c_void_p),
        ("prune", ctypes.c_void_p),
    ]


class _Override(ctypes.Structure):
    _fields_ = [("pattern", ctypes.c_char_p), ("type", ctypes.c_int32)]


class _Importance(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("data", ctypes.POINTER(ctypes.c_float)), ("size", ctypes.c_size_t)]


def _run(library: Any, job: dict[str, Any], log: list[str]) -> dict[str, str] | None:
    parameters = library.llama_model_quantize_default_params()
    defaults = [parameters.threads, parameters.file_type, *parameters.types]
    if defaults != _DEFAULTS[:4] or list(parameters.flags) != [0, 1, 0, 0, 0, 0]:
        raise RuntimeError(f"another layout of llama_model_quantize_params: {defaults}, {list(parameters.flags)}")
    parameters.threads, parameters.file_type = job["threads"], job["file_type"]
    parameters.flags[5] = not job["destination"]
    patterns = (_Override * (len(job["overrides"]) + 1))(*((text.encode(), type_) for text, type_ in job["overrides"]), (None, 0))
    weights, _kept = _weights(job["importance"])
    parameters.overrides = ctypes.addressof(patterns) if job["overrides"] else None
    parameters.importance = ctypes.addressof(weights) if job["importance"] else None
    log.clear()
    failed = library.llama_model_quantize(job["source"].encode(), job["destination"].encode(), ctypes.byref(parameters))
    if failed:
        sys.stderr.write("".join(log[-5:]))
        return None
    return {name: (new or planned or old).lower() for name, old, new, planned in _LINE.findall("".join(log))}


def _weights(file: str) -> tuple[Any, Any]:
    """An array of importance vectors and its end, and what keeps their memory."""
    vectors: dict[str, Any] = {}
    if file:
        import numpy as np

        vectors = {name: vector.astype(np.float32) for name, vector in np.load(file).items()}
    entries = [
        _Importance(name.encode(), vector.ctypes.data_as(ctypes.POINTER(ctypes.c_float)), vector.size) for name, vector in vectors.items()
    ]
    return (_Importance * (len(entries) + 1))(*entries, _Importance(None, None, 0)), vectors


def main() -> None:
    place = Path(sys.argv[1])
    library = ctypes.CDLL(str(next(place.glob("libllama.v*.so"))))
    library.llama_model_quantize_default_params.restype = _Parameters
    log: list[str] = []
    callback = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda level, text, user: log.append(text.decode()))
    library.llama_log_set(callback, None)
    json.dump([_run(library, job, log) for job in json.load(sys.stdin)], sys.stdout)


if __name__ == "__main__":
    main()
