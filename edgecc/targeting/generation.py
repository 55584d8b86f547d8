"""Generation: what is asked of an artifact that continues a text, and the pieces that it answers with."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgecc.errors import UsageError


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn. Temperature 0 takes the likeliest; `top_k` 0 and `top_p` 1 leave every token.

    Raises UsageError for a value out of range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise UsageError(f"the temperature is {self.temperature:g}, want a number of at least 0", hint="0 takes the likeliest token")
        if self.top_k < 0:
            raise UsageError(f"top-k is {self.top_k}, want at least 0", hint="0 leaves every token")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top-p is {self.top_p:g}, want above 0 and at most 1", hint="1 leaves every token")


@dataclass(frozen=True)
class GenerationRequest:
    """Continue `prompt`, a text or token ids, by at most `limit` tokens. Raises UsageError for a limit below one."""

    prompt: str | tuple[int, ...]
    limit: int = 128
    sampling: Sampling = Sampling()
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise UsageError(f"{self.limit} tokens were asked for, want at least 1")


@dataclass(frozen=True)
class Piece:
    """A generated token and its text: `""` where a character is not whole yet, None where there is no tokenizer.

    `stop` says why it is the last one: `end` (a token that ends a text), `limit`, `context` (no more fit); `""` where
    it is not.
    """

    token: int
    text: str | None
    stop: str = ""
