"""Library: llama.cpp's exported C functions with their types. Only for the child process: its asserts abort."""

from __future__ import annotations

import ctypes as c
import os
from collections.abc import Mapping
from typing import Any

from edgecc.targets.gguf.runtime import layout
from edgecc.targets.gguf.runtime.wheel import shared_library, unknown_build

_WARNING, _ERROR, _CONTINUED = 3, 4, 5  # ggml_log_level
_LOG = c.CFUNCTYPE(None, c.c_int, c.c_char_p, c.c_void_p)


class Parameters(c.Structure):
    """Room for a structure of parameters, passed by value: the callee reads the part that it knows."""

    _fields_ = [("block", c.c_uint64 * (layout.SIZE // 8))]


class Batch(c.Structure):
    """llama_batch of llama.h: every pointer is to an array with an entry a token."""

    _fields_ = [
        ("tokens", c.c_int32),
        ("token", c.c_void_p),
        ("embd", c.c_void_p),
        ("pos", c.c_void_p),
        ("n_seq_id", c.c_void_p),
        ("seq_id", c.c_void_p),
        ("logits", c.c_void_p),
    ]


_FLOATS = c.POINTER(c.c_float)
_PTR, _INT, _TEXT, _BOOL = c.c_void_p, c.c_int32, c.c_char_p, c.c_bool
#: Name: (what it gives, what it takes). llama.h of llama.cpp
_FUNCTIONS: Mapping[str, tuple[Any, tuple[Any, ...]]] = {
    "llama_backend_init": (None, ()),
    "llama_log_set": (None, (_LOG, _PTR)),
    "llama_model_default_params": (Parameters, ()),
    "llama_context_default_params": (Parameters, ()),
    "llama_model_load_from_file": (_PTR, (_TEXT, Parameters)),
    "llama_init_from_model": (_PTR, (_PTR, Parameters)),
    "llama_free": (None, (_PTR,)),
    "llama_n_ctx": (c.c_uint32, (_PTR,)),
    "llama_n_batch": (c.c_uint32, (_PTR,)),
    "llama_n_ubatch": (c.c_uint32, (_PTR,)),
    "llama_pooling_type": (_INT, (_PTR,)),
    "llama_set_n_threads": (None, (_PTR, _INT, _INT)),
    "llama_set_embeddings": (None, (_PTR, _BOOL)),
    "llama_get_memory": (_PTR, (_PTR,)),
    "llama_memory_clear": (None, (_PTR, _BOOL)),
    "llama_decode": (_INT, (_PTR, Batch)),
    "llama_encode": (_INT, (_PTR, Batch)),
    "llama_synchronize": (None, (_PTR,)),
    "llama_get_logits": (_FLOATS, (_PTR,)),
    "llama_get_embeddings": (_FLOATS, (_PTR,)),
    "llama_get_embeddings_seq": (_FLOATS, (_PTR, _INT)),
    "llama_model_n_ctx_train": (_INT, (_PTR,)),
    "llama_model_n_embd_out": (_INT, (_PTR,)),
    "llama_model_n_layer": (_INT, (_PTR,)),
    "llama_model_n_head": (_INT, (_PTR,)),
    "llama_model_n_head_kv": (_INT, (_PTR,)),
    "llama_model_n_params": (c.c_uint64, (_PTR,)),
    "llama_model_size": (c.c_uint64, (_PTR,)),
    "llama_model_desc": (_INT, (_PTR, _TEXT, c.c_size_t)),
    "llama_model_meta_count": (_INT, (_PTR,)),
    "llama_model_meta_key_by_index": (_INT, (_PTR, _INT, _TEXT, c.c_size_t)),
    "llama_model_meta_val_str_by_index": (_INT, (_PTR, _INT, _TEXT, c.c_size_t)),
    "llama_model_get_vocab": (_PTR, (_PTR,)),
    "llama_vocab_n_tokens": (_INT, (_PTR,)),
    "llama_vocab_type": (_INT, (_PTR,)),
    "llama_vocab_is_eog": (_BOOL, (_PTR, _INT)),
    "llama_tokenize": (_INT, (_PTR, _TEXT, _INT, _PTR, _INT, _BOOL, _BOOL)),
    "llama_detokenize": (_INT, (_PTR, _PTR, _INT, _PTR, _INT, _BOOL, _BOOL)),
    "llama_token_to_piece": (_INT, (_PTR, _INT, _PTR, _INT, _INT, _BOOL)),
}


class Library:
    """`errors` are the lines that llama.cpp logged as errors. Raises MissingToolError for a build that is not known."""

    def __init__(self) -> None:
        self.call = c.CDLL(str(shared_library()))
        lacking = [name for name in _FUNCTIONS if not hasattr(self.call, name)]
        if lacking:
            raise unknown_build(f"it does not export {', '.join(lacking)}")
        for name, (gives, takes) in _FUNCTIONS.items():
            function = getattr(self.call, name)
            function.restype, function.argtypes = gives, takes
        self.errors: list[str] = []
        self._level = 0
        self._log = _LOG(self._write)  # kept: llama.cpp holds its address
        self.call.llama_log_set(self._log, None)
        self.call.llama_backend_init()
        model = layout.on_the_cpu(bytes(self.call.llama_model_default_params()))
        self._context = bytes(self.call.llama_context_default_params())
        fields = layout.find_context_fields(self._context)
        if model is None or fields is None:
            raise unknown_build("its parameters are laid out in a way that edgecc does not know")
        self.model_parameters, self.fields = Parameters.from_buffer_copy(model), fields

    def context_parameters(self, values: Mapping[int, int]) -> Parameters:
        """The default parameters of a context with other values, by offset of `fields`."""
        return Parameters.from_buffer_copy(layout.with_fields(self._context, values))

    def _write(self, level: int, text: bytes, _: object) -> None:
        """Log warnings and errors on standard error, and remember the errors; the rest, which is much, is dropped."""
        self._level = self._level if level == _CONTINUED else level
        if self._level < _WARNING:
            return
        os.write(2, text)
        if self._level == _ERROR and text.strip():
            self.errors.append(text.decode(errors="replace").strip())
