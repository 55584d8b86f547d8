"""What a vocabulary is in a GGUF file: tokens with their kinds, as many as the embedding has rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgecc.errors import UnsupportedError, UsageError
from edgecc.frontend.sentencepiece_model import CONTROL, NORMAL, UNUSED, USER_DEFINED

if TYPE_CHECKING:
    from edgecc.frontend.tokenizer import HfTokenizer
    from edgecc.targets.gguf.writer import Value

MODEL, PRE = "tokenizer.ggml.model", "tokenizer.ggml.pre"
TOKENS, KINDS, SCORES, MERGES = (f"tokenizer.ggml.{name}" for name in ("tokens", "token_type", "scores", "merges"))


@dataclass(frozen=True)
class Vocabulary:
    """`keys`: tokenizer.ggml.* and tokenizer.chat_template*; `size`: tokens, unused ones included; `notes`: what a user should know."""

    keys: Mapping[str, Value]
    size: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """Text and kind of each token, a row of the embedding each. Kinds are those of SentencePiece, as llama.cpp has them."""

    texts: tuple[str, ...]
    kinds: tuple[int, ...]


@dataclass(frozen=True)
class Tables:
    """What depends on the kind of tokenizer: keys, tokens, and notes."""

    keys: Mapping[str, Any]
    table: Table
    notes: tuple[str, ...] = ()


def read_table(
    source: HfTokenizer, rows: int, spelling: Callable[[str], str] = str, kind: Callable[[str], int] = lambda _: NORMAL
) -> Table:
    """Tokens of the model, spelled and sorted by `spelling` and `kind`, added tokens as they are, and unused ones for the other rows.

    Raises UsageError for more tokens than rows, UnsupportedError where two tokens would have one text.
    """
    found = {i: (spelling(text), kind(text)) for text, i in source.spec["model"]["vocab"].items()}
    for token in source.spec["added_tokens"]:
        found[token["id"]] = (token["content"], CONTROL if token["special"] else USER_DEFINED)
    count = max(found, default=-1) + 1
    if count > rows:
        raise UsageError(
            f"vocabulary mismatch: the tokenizer of {source.path} has {count} tokens, the embedding of the model {rows} rows",
            hint="the tokenizer belongs to another model, or tokens were added and the embedding was not resized",
        )
    ids: dict[str, int] = {}
    for i in sorted(found):
        text = found[i][0]
        if ids.setdefault(text, i) != i:
            raise UnsupportedError(f"{source.path}: tokens {ids[text]} and {i} both are {text!r} in llama.cpp, which wants each text once")
    for i in range(rows):
        if i not in found:
            found[i] = (_unused(i, ids), UNUSED)
    texts, kinds = zip(*(found[i] for i in range(rows)), strict=True)
    return Table(texts, kinds)


def _unused(number: int, taken: Mapping[str, int]) -> str:
    """A text that no token has."""
    text = f"[PAD{number}]"
    while text in taken:
        text = f"[{text}]"
    return text
