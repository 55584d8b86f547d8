"""LlamaCpp: one GGUF file loaded by llama.cpp in a child process, because its asserts abort the process that they are in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgecc.errors import UsageError
from edgecc.targeting.generation import Piece, Sampling
from edgecc.targets.gguf.runtime import protocol
from edgecc.targets.gguf.runtime.process import Process
from edgecc.targets.gguf.runtime.wheel import runtime_name, shared_library

Floats = np.ndarray[Any, np.dtype[np.float32]]
Ids = Sequence[int] | np.ndarray[Any, Any]
_GREEDY = Sampling()


@dataclass(frozen=True)
class Facts:
    """What the file says of its model. `context`: the tokens that it takes; `width`: of an embedding; `tokenizer`: whether it
    has one; `decoder`: whether it gives logits; `pooling`: none, mean, cls, last or rank; `load_ms`: how long loading took.
    """

    architecture: str
    description: str
    vocabulary: int
    tokenizer: bool
    context: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    parameters: int
    bytes: int
    decoder: bool
    pooling: str
    load_ms: float


@dataclass(frozen=True)
class Speed:
    """Tokens per second of every repeat: of reading `prompt_tokens` at once, and of writing `new_tokens` one by one."""

    prompt_tokens: int
    new_tokens: int
    prompt: Sequence[float]
    decode: Sequence[float]


class LlamaCpp:
    """A context manager: entering loads the file, leaving ends the child. Every sequence starts with an empty memory.

    `seconds`: how long one answer may take. Every method raises ContractError where llama.cpp fails, with the last lines of
    its log, and where the child ends; UsageError for tokens that the model does not have or take; entering raises
    MissingToolError without xllamacpp and ContractError with what llama.cpp said of a file that it cannot load.
    """

    facts: Facts

    def __init__(self, path: Path, *, threads: int = 1, seconds: float = 3600.0) -> None:
        self.path, self.threads, self.seconds = path.resolve(), threads, seconds
        self._process: Process | None = None

    def __enter__(self) -> LlamaCpp:
        if not self.path.is_file():
            raise UsageError(f"{self.path} is no file")
        shared_library()
        self.runtime = runtime_name()
        self._process = Process(self.path.name)
        try:
            self.facts = Facts(**self._ask({"command": "load", "path": str(self.path), "threads": self.threads}))
        except BaseException:
            self._process.end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.end()

    @property
    def pid(self) -> int:
        """The child's process id."""
        assert self._process is not None
        return self._process.pid

    def logits(self, tokens: Ids) -> Floats:
        """Logits after each token. tokens [n] -> [n, vocab] f32."""
        return self._array({"command": "logits"}, tokens)

    def embeddings(self, tokens: Ids, *, pooled: bool = False) -> Floats:
        """Embeddings of the tokens. tokens [n] -> [n, width] f32, or [width] as the file pools them, not normalized."""
        found = self._array({"command": "embeddings", "pooled": pooled}, tokens)
        return found[0] if pooled else found

    def generate(self, prompt: str | Ids, *, limit: int = 128, sampling: Sampling = _GREEDY) -> Iterator[Piece]:
        """At most `limit` tokens after a text or ids, one by one as they are computed. Another call breaks it off."""
        if limit < 1:
            raise UsageError(f"{limit} tokens were asked for, want at least 1")
        tokens = self.tokenize(prompt) if isinstance(prompt, str) else prompt
        self._ask({"command": "begin", "limit": limit, "sampling": asdict(sampling)}, tokens)
        while True:
            piece = Piece(**self._ask({"command": "step"}))
            yield piece
            if piece.stop:
                return

    def tokenize(self, text: str, *, special: bool = True) -> list[int]:
        """The ids of a text. `special`: with what the file puts around a text, and with special tokens spelled out in it."""
        return [int(i) for i in self._ask({"command": "tokenize", "text": text, "special": special})]

    def detokenize(self, tokens: Ids) -> str:
        """The text of ids, special tokens spelled out."""
        return str(self._ask({"command": "detokenize"}, tokens))

    def metadata(self) -> dict[str, str]:
        """The keys of the file but those of arrays, and their values as llama.cpp prints them."""
        return dict(self._ask({"command": "metadata"}))

    def speed(self, *, prompt: int = 128, new: int = 32, seconds: float = 2.0) -> Speed:
        """How fast prompts are read and tokens written, with llama.cpp's own settings, warm."""
        return Speed(**self._ask({"command": "speed", "prompt": prompt, "new": new, "seconds": seconds}))

    def peak_bytes(self) -> int:
        """The peak of the child's memory beyond what it had before loading, 0 where the machine does not tell."""
        return int(self._ask({"command": "peak_bytes"}))

    def _array(self, fields: dict[str, Any], tokens: Ids) -> Floats:
        return np.asarray(self._exchange(fields, tokens)[1][0], np.float32)

    def _ask(self, fields: dict[str, Any], tokens: Ids | None = None) -> Any:
        return self._exchange(fields, tokens)[0]["value"]

    def _exchange(self, fields: dict[str, Any], tokens: Ids | None) -> tuple[dict[str, Any], list[protocol.Array]]:
        assert self._process is not None, "enter the context manager first"
        return self._process.exchange(fields, [] if tokens is None else [_ids(tokens)], self.seconds)


def _ids(tokens: Ids) -> np.ndarray[Any, np.dtype[np.int32]]:
    """Ids [n] of any integer type as i32. Raises UsageError for what are none, or do not fit."""
    array = np.asarray(tokens)
    if array.size == 0:
        array = array.astype(np.int32)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise UsageError(f"tokens are {array.dtype} of shape {list(array.shape)}, want integers in one row")
    limits = np.iinfo(np.int32)
    wrong = np.flatnonzero((array < limits.min) | (array > limits.max))
    if len(wrong):
        raise UsageError(f"token {wrong[0]} is {array[wrong[0]]}, which is no token id")
    return array.astype(np.int32)
