"""Model: a GGUF file that llama.cpp has loaded in this process, and its contexts. Only for the child process.

Logits and embeddings are computed as exactly as llama.cpp can: keys and values in F32, no flash attention. (F16, the
default, costs 1e-3.) A context is made for what is asked, and made again where a longer one is needed.
"""

from __future__ import annotations

import ctypes as c
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgecc.errors import ContractError, UsageError
from edgecc.targets.gguf.runtime.library import Batch, Library
from edgecc.targets.gguf.runtime.wheel import unknown_build

Floats = np.ndarray[Any, np.dtype[np.float32]]
Tokens = np.ndarray[Any, np.dtype[np.int32]]
POOLINGS = {-1: "none", 0: "none", 1: "mean", 2: "cls", 3: "last", 4: "rank"}
CHUNK = 512  # tokens of a decoder that are computed at once: a buffer has this many rows of logits
_LEAST = 256  # tokens of a context: llama.cpp rounds up to a multiple
_AS_FILED, _NO_POOLING = -1, 0
_F32, _F16, _NEVER, _AUTOMATIC = 0, 1, 0, -1


@dataclass(frozen=True)
class Use:
    """What a context is for. `exact`: with keys and values in F32, else as llama.cpp does by default."""

    pooling: int = _AS_FILED
    embeddings: bool = False
    exact: bool = True


LOGITS = Use()
TOKEN_EMBEDDINGS, POOLED_EMBEDDING = Use(_NO_POOLING, embeddings=True), Use(embeddings=True)
TIMED, TIMED_ENCODER = Use(exact=False), Use(embeddings=True, exact=False)


class Model:
    """Raises ContractError with what llama.cpp said where it cannot load the file."""

    def __init__(self, path: Path, threads: int) -> None:
        self.library, self.threads = Library(), threads
        self.call = self.library.call
        start = time.perf_counter()
        self.handle = self.call.llama_model_load_from_file(str(path).encode(), self.library.model_parameters)
        if not self.handle:
            raise ContractError(f"llama.cpp cannot load {path.name}: {self._said()}")
        self.vocab = self.call.llama_model_get_vocab(self.handle)
        self.vocabulary = int(self.call.llama_vocab_n_tokens(self.vocab))
        self.longest = int(self.call.llama_model_n_ctx_train(self.handle))
        self.width = int(self.call.llama_model_n_embd_out(self.handle))
        self.decoder = True
        self._size, self._use = 0, LOGITS
        self._context: int | None = None
        self.context(1, LOGITS)
        self.load_ms = 1e3 * (time.perf_counter() - start)

    def facts(self) -> dict[str, Any]:
        """What the file says of the model, as JSON values."""
        numbers = {
            name: int(getattr(self.call, f"llama_model_{name}")(self.handle))
            for name in ("n_layer", "n_head", "n_head_kv", "n_params", "size")
        }
        assert self._context is not None
        return {
            "architecture": self.metadata().get("general.architecture", ""),
            "description": read_text(lambda buffer, size: self.call.llama_model_desc(self.handle, buffer, size)),
            "vocabulary": self.vocabulary,
            "tokenizer": bool(self.call.llama_vocab_type(self.vocab)),
            "context": self.longest,
            "width": self.width,
            "layers": numbers["n_layer"],
            "heads": numbers["n_head"],
            "kv_heads": numbers["n_head_kv"],
            "parameters": numbers["n_params"],
            "bytes": numbers["size"],
            "decoder": self.decoder,
            "pooling": POOLINGS.get(self.call.llama_pooling_type(self._context), "none"),
            "load_ms": self.load_ms,
        }

    def metadata(self) -> dict[str, str]:
        """Keys of the file and their values as text; llama.cpp leaves arrays out."""
        get_key, get_value = self.call.llama_model_meta_key_by_index, self.call.llama_model_meta_val_str_by_index

        def read(get: Callable[..., int], index: int) -> str:
            return read_text(lambda buffer, size: get(self.handle, index, buffer, size))

        return {read(get_key, i): read(get_value, i) for i in range(self.call.llama_model_meta_count(self.handle))}

    def context(self, length: int, use: Use) -> int:
        """A context for `length` tokens with none in its memory. Raises UsageError where the model takes fewer."""
        if length > self.longest:
            raise UsageError(f"{length} tokens are more than the model's context of {self.longest}", hint="give fewer tokens")
        if self._context is None or self._use != use or self._size < length:
            self._make(max(_LEAST, min(1 << (length - 1).bit_length(), self.longest)), use)
        assert self._context is not None
        if self.decoder:
            self.call.llama_memory_clear(self.call.llama_get_memory(self._context), True)
        return self._context

    def _make(self, size: int, use: Use) -> None:
        if self._context is not None:
            self.call.llama_free(self._context)
            self._context = None
        fields, kind = self.library.fields, _F32 if use.exact else _F16
        batch = min(size, CHUNK) if self.decoder and not use.embeddings else size
        wanted = {
            fields.context: size,
            fields.batch: batch,
            fields.micro_batch: batch,
            fields.pooling: use.pooling,
            fields.flash_attention: _NEVER if use.exact else _AUTOMATIC,
            fields.keys: kind,
            fields.values: kind,
        }
        self.library.errors.clear()
        context = self.call.llama_init_from_model(self.handle, self.library.context_parameters(wanted))
        if not context:
            raise ContractError(f"llama.cpp cannot make a context for {size} tokens: {self._said()}")
        self._context, self._size, self._use = context, size, use
        if (self.call.llama_n_batch(context), self.call.llama_n_ubatch(context)) != (batch, batch) or self.call.llama_n_ctx(context) < size:
            raise unknown_build("a context has other sizes than those that were asked for")
        self.decoder = bool(self.call.llama_get_memory(context))
        self.call.llama_set_n_threads(context, self.threads, self.threads)
        self.call.llama_set_embeddings(context, use.embeddings)

    def compute(self, context: int, tokens: Tokens, position: int, outputs: Any) -> None:
        """Run tokens that stand at `position` and on; outputs [n] bool: whether logits or embeddings are wanted of each.

        Raises ContractError where llama.cpp fails.
        """
        count, sequence = len(tokens), np.zeros(1, np.int32)
        arrays = (
            np.ascontiguousarray(tokens, np.int32),
            np.arange(position, position + count, dtype=np.int32),
            np.ones(count, np.int32),
            np.full(count, sequence.ctypes.data, np.uintp),
            np.ascontiguousarray(outputs, np.int8),
        )
        token, *rest = (array.ctypes.data for array in arrays)
        self.library.errors.clear()
        run = self.call.llama_decode if self.decoder else self.call.llama_encode
        code = run(context, Batch(count, token, None, *rest))
        if code:
            raise ContractError(f"llama.cpp failed on {count} tokens with code {code}: {self._said()}")
        self.call.llama_synchronize(context)

    def _said(self) -> str:
        """The errors that llama.cpp logged, without the lines that only repeat that it failed."""
        lines = [line for line in dict.fromkeys(self.library.errors) if not line.endswith("failed to load model")]
        return "; ".join(lines) or "it does not say why"


def read_text(fill: Callable[[Any, int], int]) -> str:
    """A string that a function of llama.cpp writes into a buffer; it returns the length that it needs."""
    needed = fill(None, 0)
    buffer = c.create_string_buffer(needed + 1)
    fill(buffer, len(buffer))
    return buffer.value.decode(errors="replace")


def copied(pointer: Any, rows: int, columns: int, what: str) -> Floats:
    """A copy [rows, columns] of what llama.cpp computed. Raises ContractError where it computed nothing."""
    if not pointer:
        raise ContractError(f"llama.cpp gives no {what} of this model")
    return np.array(np.ctypeslib.as_array(pointer, (rows, columns)), np.float32)
