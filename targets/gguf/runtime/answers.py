"""Answers: what the child computes, one method a command. Only for the child process.

A generation is a state that `step` advances by a token, so whoever reads the tokens decides how far it goes.
"""

from __future__ import annotations

import codecs
import ctypes as c
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgecc.errors import UsageError
from edgecc.targeting.generation import Sampling
from edgecc.targeting.memory import Peak
from edgecc.targets.gguf.runtime.model import CHUNK, LOGITS, POOLED_EMBEDDING, TOKEN_EMBEDDINGS, Floats, Model, Tokens, copied
from edgecc.targets.gguf.runtime.sampling import choose, generator
from edgecc.targets.gguf.runtime.speed import measure


@dataclass
class _Generation:
    """logits [vocab] of the next token; how many tokens stand before it, and how many are still wanted."""

    context: int
    logits: Floats
    position: int
    left: int
    sampling: Sampling
    generator: np.random.Generator
    text: codecs.IncrementalDecoder


class Answers:
    """Methods take and give JSON values and arrays. Raises UsageError and ContractError."""

    def __init__(self, path: str, threads: int) -> None:
        self._peak = Peak()
        self.model = Model(Path(path), threads)
        self.call = self.model.call
        self._tokenizer = bool(self.call.llama_vocab_type(self.model.vocab))
        self._generation: _Generation | None = None

    def facts(self) -> dict[str, Any]:
        return self.model.facts()

    def metadata(self) -> dict[str, str]:
        return self.model.metadata()

    def peak_bytes(self) -> int:
        """The peak of memory beyond what the process had before it loaded the model, 0 where the machine does not tell."""
        return self._peak.bytes()

    def speed(self, prompt: int, new: int, seconds: float) -> dict[str, Any]:
        self._generation = None
        return measure(self.model, prompt, new, seconds)

    def logits(self, tokens: Tokens) -> Floats:
        """tokens [n] -> [n, vocab]: those after each token."""
        context = self._context(tokens, LOGITS)
        return np.concatenate([self._rows(context, start, tokens[start : start + CHUNK]) for start in range(0, len(tokens), CHUNK)])

    def embeddings(self, tokens: Tokens, pooled: bool) -> Floats:
        """tokens [n] -> [n, width], or [1, width] pooled as the file says."""
        context = self._context(tokens, POOLED_EMBEDDING if pooled else TOKEN_EMBEDDINGS)
        if pooled and self.call.llama_pooling_type(context) <= 0:
            raise UsageError("the file says nothing of pooling: it has an embedding for each token and none of the whole")
        self.model.compute(context, tokens, 0, np.ones(len(tokens)))
        if not pooled:
            return copied(self.call.llama_get_embeddings(context), len(tokens), self.model.width, "embeddings")
        return copied(self.call.llama_get_embeddings_seq(context, 0), 1, self.model.width, "pooled embedding")

    def begin(self, tokens: Tokens, limit: int, sampling: Sampling) -> None:
        """Start to generate at most `limit` tokens after these."""
        context = self._context(tokens, LOGITS, more=limit)
        for start in range(0, len(tokens), CHUNK):
            logits = self._last(context, start, tokens[start : start + CHUNK])
        text = codecs.getincrementaldecoder("utf-8")("replace")
        self._generation = _Generation(context, logits, len(tokens), limit, sampling, generator(sampling), text)

    def step(self) -> dict[str, Any]:
        """The fields of a Piece: the next token, its text as far as that is whole characters, and why it is the last one."""
        state = self._generation
        if state is None:
            raise UsageError("the generation was broken off by another call")
        token = choose(state.logits, state.sampling, state.generator)
        state.left -= 1
        if self.call.llama_vocab_is_eog(self.model.vocab, token):
            stop = "end"
        elif state.position >= self.model.longest:
            stop = "context"
        else:
            stop = "" if state.left else "limit"
        piece = self._piece(token) if self._tokenizer and stop != "end" else b""
        text = state.text.decode(piece, final=bool(stop)) if self._tokenizer else None
        if stop:
            self._generation = None
        else:
            state.logits = self._last(state.context, state.position, np.array([token], np.int32))
            state.position += 1
        return {"token": token, "text": text, "stop": stop}

    def tokenize(self, text: str, special: bool) -> list[int]:
        """The ids of a text, with what the file says stands around every text where `special`."""
        self._require_tokenizer()
        data = text.encode()
        room = len(data) + 16
        while True:
            ids = np.empty(room, np.int32)
            count = self.call.llama_tokenize(self.model.vocab, data, len(data), ids.ctypes.data, room, special, special)
            if count >= 0:
                return [int(i) for i in ids[:count]]
            room = -count

    def detokenize(self, tokens: Tokens) -> str:
        self._require_tokenizer()
        self._check(tokens)
        ids, room = np.ascontiguousarray(tokens), 16 * len(tokens) + 16
        while True:
            buffer = c.create_string_buffer(room)
            count = self.call.llama_detokenize(self.model.vocab, ids.ctypes.data, len(ids), buffer, room, False, True)
            if count >= 0:
                return buffer.raw[:count].decode(errors="replace")
            room = -count

    def _context(self, tokens: Tokens, use: Any, more: int = 0) -> int:
        self._generation = None
        self._check(tokens)
        if not len(tokens):
            raise UsageError("there are no tokens to run", hint="give at least one")
        if not use.embeddings and not self.model.decoder:
            raise UsageError("the model is an encoder: it gives embeddings and no logits")
        length = min(len(tokens) + more, max(self.model.longest, len(tokens)))
        return self.model.context(length, use)

    def _check(self, tokens: Sequence[int] | Tokens) -> None:
        """Raises UsageError for the first id that is none: llama.cpp would read past the embedding."""
        wrong = np.flatnonzero((np.asarray(tokens) < 0) | (np.asarray(tokens) >= self.model.vocabulary))
        if len(wrong):
            i = int(wrong[0])
            raise UsageError(f"token {i} is {tokens[i]}, want 0 to {self.model.vocabulary - 1}: the vocabulary has {self.model.vocabulary}")

    def _require_tokenizer(self) -> None:
        if not self._tokenizer:
            raise UsageError("the file holds no tokenizer, so it takes token ids and no text", hint="--prompt-ids 1,2,3")

    def _rows(self, context: int, position: int, tokens: Tokens) -> Floats:
        self.model.compute(context, tokens, position, np.ones(len(tokens)))
        return copied(self.call.llama_get_logits(context), len(tokens), self.model.vocabulary, "logits")

    def _last(self, context: int, position: int, tokens: Tokens) -> Floats:
        self.model.compute(context, tokens, position, np.arange(len(tokens)) == len(tokens) - 1)
        return copied(self.call.llama_get_logits(context), 1, self.model.vocabulary, "logits").ravel()

    def _piece(self, token: int) -> bytes:
        room = 64
        while True:
            buffer = c.create_string_buffer(room)
            count = self.call.llama_token_to_piece(self.model.vocab, token, buffer, room, 0, False)
            if count >= 0:
                return buffer.raw[:count]
            room = -count
