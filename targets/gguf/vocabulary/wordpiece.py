"""WordPiece, `bert` in llama.cpp: the start of a word is marked, with U+2581, where BERT marks what continues one, with `##`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgecc.errors import UnsupportedError
from edgecc.frontend.tokenizer_files import SPACE
from edgecc.targets.gguf.vocabulary.keys import MODEL, PRE, Tables, read_table

if TYPE_CHECKING:
    from edgecc.frontend.tokenizer import HfTokenizer

_CONTINUES = "##"


def read(source: HfTokenizer, rows: int) -> Tables:
    """Tokens, and whether text is lower-cased. Raises UnsupportedError for another split than BERT's."""
    model = source.spec["model"]
    if model.get("continuing_subword_prefix", _CONTINUES) != _CONTINUES:
        raise UnsupportedError(f"{source.path}: WordPiece continues words with {model['continuing_subword_prefix']!r}, want {_CONTINUES!r}")
    normalizer = _only(source, "normalizer", "BertNormalizer")
    _only(source, "pre_tokenizer", "BertPreTokenizer")
    if not normalizer.get("handle_chinese_chars", True):
        raise UnsupportedError(f"{source.path}: the tokenizer keeps Chinese characters together, llama.cpp takes each as a word")
    lowercase = bool(normalizer.get("lowercase", True))
    accents = normalizer.get("strip_accents")
    names = {
        MODEL: "bert",
        PRE: "default",
        "tokenizer.ggml.normalizer.lowercase": lowercase,
        "tokenizer.ggml.normalizer.strip_accents": lowercase if accents is None else bool(accents),
        "tokenizer.ggml.add_space_prefix": False,
    }
    return Tables(names, read_table(source, rows, spelling=_spelling))


def _spelling(token: str) -> str:
    return token.removeprefix(_CONTINUES) if token.startswith(_CONTINUES) and token != _CONTINUES else SPACE + token


def _only(source: HfTokenizer, part: str, wanted: str) -> dict[str, Any]:
    found = source.steps(part)
    if [step.get("type") for step in found] != [wanted]:
        names = ", ".join(str(step.get("type")) for step in found) or "none"
        raise UnsupportedError(f"{source.path}: WordPiece with {part} {names}, want {wanted}")
    return dict(found[0])
