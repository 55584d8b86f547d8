"""Vocabulary: the tokenizer of a Hugging Face directory as keys of a GGUF file, and whether llama.cpp then gives the same tokens."""

from __future__ import annotations

from pathlib import Path

from edgecc.errors import UnsupportedError
from edgecc.targets.gguf.vocabulary.check import Difference, accept, check_vocabulary, tokenize
from edgecc.targets.gguf.vocabulary.keys import Vocabulary

__all__ = ["Difference", "Vocabulary", "accept", "check_vocabulary", "no_vocabulary", "read_vocabulary", "tokenize"]


def read_vocabulary(directory: Path, rows: int, *, pre: str = "") -> Vocabulary:
    """The tokenizer of `directory`, padded with unused tokens to the `rows` of the embedding.

    `pre` names the pre-tokenizer of llama.cpp to write, instead of the one that splits as this tokenizer does. Raises
    UsageError for missing or damaged files, for more tokens than rows and for an unknown `pre`, UnsupportedError for a tokenizer that llama.cpp
    has no counterpart of, RefusedError where it is Python code, MissingToolError without the tokenizers library.
    """
    from edgecc.frontend.tokenizer import read_tokenizer
    from edgecc.targets.gguf.vocabulary import byte_level, sentencepiece, special, wordpiece

    source = read_tokenizer(directory)
    kind = str(source.spec["model"].get("type"))
    if kind == "BPE":
        tables = (byte_level if byte_level.fits(source) else sentencepiece).read(source, rows, pre)
    elif kind == "WordPiece":
        tables = wordpiece.read(source, rows)
    else:
        raise UnsupportedError(
            f"{directory}: a tokenizer of kind {kind} has no counterpart here, want BPE or WordPiece",
            hint="--set target_options.tokenizer=none leaves the vocabulary out; the model then takes token ids",
        )
    return special.complete(source, tables)


def no_vocabulary(architecture: str, rows: int) -> Vocabulary:
    """No tokenizer: llama.cpp takes and gives token ids, `rows` of them."""
    return Vocabulary({"tokenizer.ggml.model": "no_vocab", f"{architecture}.vocab_size": rows}, rows)
