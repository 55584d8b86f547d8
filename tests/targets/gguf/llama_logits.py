"""`python llama_logits.py MODEL TOKEN ...`: the logits of llama.cpp at every token as raw float32, a process of its own.

ggml ends a process it finds wrong. Keys and values are float32 and attention is the plain one, or llama.cpp rounds to float16.
"""

from __future__ import annotations

import ctypes
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_CONTEXT = {0: 512, 1: 2048, 2: 512, 10: -1, 11: -1, 12: -1, 13: -1, 26: 1, 27: 1}  # words of llama_context_params by default
_FLASH, _KEYS, _VALUES = 13, 26, 27


class _Opaque(ctypes.Structure):
    _fields_ = [("words", ctypes.c_int32 * 64)]  # larger than any of llama.cpp's parameters


class _Batch(ctypes.Structure):
    _fields_ = [
        ("count", ctypes.c_int32),
        ("tokens", ctypes.POINTER(ctypes.c_int32)),
        ("embeddings", ctypes.c_void_p),
        ("positions", ctypes.POINTER(ctypes.c_int32)),
        ("sequences", ctypes.POINTER(ctypes.c_int32)),
        ("sequence", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("wanted", ctypes.POINTER(ctypes.c_int8)),
    ]


def _library() -> Any:
    spec = find_spec("xllamacpp")
    assert spec is not None and spec.origin is not None
    library = ctypes.CDLL(str(next(Path(spec.origin).parent.glob("*.so"))))
    for name in ("llama_model_default_params", "llama_context_default_params"):
        getattr(library, name).restype = _Opaque
    for name in ("llama_model_load_from_file", "llama_init_from_model", "llama_model_get_vocab"):
        getattr(library, name).restype = ctypes.c_void_p
    library.llama_batch_init.restype = _Batch
    library.llama_get_logits.restype = ctypes.POINTER(ctypes.c_float)
    return library


def main() -> None:
    path, tokens = sys.argv[1], [int(token) for token in sys.argv[2:]]
    library = _library()
    library.llama_backend_init()
    model = library.llama_model_load_from_file(path.encode(), library.llama_model_default_params())
    if not model:
        sys.exit(f"llama.cpp cannot load {path}")
    parameters = library.llama_context_default_params()
    found = {word: parameters.words[word] for word in _CONTEXT}
    if found != _CONTEXT:
        sys.exit(f"another layout of llama_context_params: {found}")
    parameters.words[_FLASH] = parameters.words[_KEYS] = parameters.words[_VALUES] = 0
    context = library.llama_init_from_model(ctypes.c_void_p(model), parameters)
    batch = library.llama_batch_init(len(tokens), 0, 1)
    batch.count = len(tokens)
    for position, token in enumerate(tokens):
        batch.tokens[position], batch.positions[position], batch.wanted[position] = token, position, 1
        batch.sequences[position], batch.sequence[position][0] = 1, 0
    if library.llama_decode(ctypes.c_void_p(context), batch):
        sys.exit("llama.cpp cannot decode")
    size = library.llama_vocab_n_tokens(ctypes.c_void_p(library.llama_model_get_vocab(ctypes.c_void_p(model))))
    logits = library.llama_get_logits(ctypes.c_void_p(context))
    sys.stdout.buffer.write(ctypes.string_at(logits, 4 * size * len(tokens)))


if __name__ == "__main__":
    main()
