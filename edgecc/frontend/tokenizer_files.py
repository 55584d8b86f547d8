"""The older files of a tokenizer, written as what `tokenizer.json` would hold: SentencePiece models, vocabularies with merges, WordPiece lists."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from edgecc.errors import UnsupportedError, UsageError
from edgecc.frontend import sentencepiece_model as sp
from edgecc.frontend.json_files import read_object, read_optional

Spec = dict[str, Any]
SPACE = "\u2581"
_FIRST = "<s>"
_QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
#: Tokenizer classes of transformers whose vocab.json and merges.txt are read, with the pattern that they split by ("": GPT-2's own).
_PATTERNS = {"": "", "GPT2": "", "Roberta": "", "CodeGen": "", "Qwen2": _QWEN2}
_HINT = "AutoTokenizer.from_pretrained(DIRECTORY).save_pretrained(DIRECTORY) writes a tokenizer.json"


def from_sentencepiece(path: Path, config: Mapping[str, Any]) -> tuple[Spec, tuple[float, ...]]:
    """Of `tokenizer.model`: the specification, and the score of each piece. `<s>` is put first unless the configuration says no.

    Raises UnsupportedError where it is not BPE.
    """
    model = sp.read_sentencepiece(path)
    if model.kind != "bpe":
        raise UnsupportedError(f"{path} is a {model.kind} SentencePiece model, want BPE", hint=_HINT)
    if not model.usual:
        raise UnsupportedError(f"{path} puts spaces at the end of words, or keeps them as they are, want U+2581 at the start", hint=_HINT)
    # what the user defined is looked for in the text as it is, before spaces become U+2581
    texts = [p.text.replace(SPACE, " ") if p.kind == sp.USER_DEFINED else p.text for p in model.pieces]
    vocabulary = {text: i for i, text in enumerate(texts)}
    if len(vocabulary) != len(model.pieces):
        raise UsageError(f"{path} holds a piece twice")
    scores = tuple(p.score for p in model.pieces)
    unknown = next((p.text for p in model.pieces if p.kind == sp.UNKNOWN), None)
    steps: list[Spec] = (
        [{"type": "Precompiled", "precompiled_charsmap": base64.b64encode(model.charsmap).decode()}] if model.charsmap else []
    )
    steps += [{"type": "Strip", "strip_left": True, "strip_right": True}, _replace({"Regex": " {2,}"}, " ")] if model.strips else []
    steps += [{"type": "Prepend", "prepend": SPACE}] if model.prefix else []
    mergeable = {p.text: p.score for p in model.pieces if p.kind == sp.NORMAL}
    added = [
        _added(i, texts[i], p.kind != sp.USER_DEFINED)
        for i, p in enumerate(model.pieces)
        if p.kind in (sp.UNKNOWN, sp.CONTROL, sp.USER_DEFINED)
    ]
    first = config.get("add_bos_token", True) and any(p.text == _FIRST and p.kind == sp.CONTROL for p in model.pieces)
    return {
        "added_tokens": added,
        "post_processor": _with_first(vocabulary[_FIRST]) if first else None,
        "normalizer": {"type": "Sequence", "normalizers": [*steps, _replace({"String": " "}, SPACE)]},
        "model": {
            "type": "BPE",
            "vocab": vocabulary,
            "merges": merges_of(mergeable, vocabulary),
            "unk_token": unknown,
            "fuse_unk": True,
            "byte_fallback": any(p.kind == sp.BYTE for p in model.pieces),
        },
    }, scores


def _with_first(number: int) -> Spec:
    """A post-processor that puts `<s>` before a text."""
    single = [{"SpecialToken": {"id": _FIRST, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    pair = [*single, {"Sequence": {"id": "B", "type_id": 1}}]
    special = {_FIRST: {"id": _FIRST, "ids": [number], "tokens": [_FIRST]}}
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}


def merges_of(scores: Mapping[str, float], vocabulary: Mapping[str, int]) -> list[tuple[str, str]]:
    """The merges that a SentencePiece BPE makes: every pair of scored tokens whose text together is one, the best score first.

    Of one score the longest left part comes first, as transformers orders them: in a run of spaces the leftmost pair is then merged.
    """
    found: list[tuple[float, int, int, int, int, str, str]] = []
    for text, score in scores.items():
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            if left in scores and right in scores:
                found.append((-score, -len(left), -len(right), vocabulary[left], vocabulary[right], left, right))
    return [(left, right) for *_, left, right in sorted(found)]


def from_vocabulary_and_merges(path: Path, config: Mapping[str, Any]) -> Spec:
    """Of `vocab.json` and `merges.txt`, byte-level BPE. Raises UnsupportedError for a class whose way of splitting is not known here."""
    name = str(config.get("tokenizer_class") or "").removesuffix("Fast").removesuffix("Tokenizer")
    if name not in _PATTERNS:
        raise UnsupportedError(f"{path}: vocab.json and merges.txt of {name}Tokenizer are not read without tokenizer.json", hint=_HINT)
    vocabulary = read_object(path / "vocab.json")
    lines = _lines(path / "merges.txt")
    merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    if any(len(merge) != 2 for merge in merges):
        raise UsageError(f"{path}/merges.txt is damaged: a line is no pair of tokens", hint="copy or download it again")
    byte_level: Spec = {
        "type": "ByteLevel",
        "add_prefix_space": bool(config.get("add_prefix_space")),
        "trim_offsets": True,
        "use_regex": not _PATTERNS[name],
    }
    split = {"type": "Split", "pattern": {"Regex": _PATTERNS[name]}, "behavior": "Isolated", "invert": False}
    return {
        "normalizer": {"type": "NFC"} if name == "Qwen2" else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]} if _PATTERNS[name] else byte_level,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": merges},
    }


def from_wordpiece(path: Path, config: Mapping[str, Any]) -> Spec:
    """Of `vocab.txt`, one WordPiece token a line, as BertTokenizer reads it."""
    vocabulary = {token: i for i, token in enumerate(_lines(path / "vocab.txt"))}
    names = {key: _text(config.get(f"{key}_token"), default) for key, default in (("unk", "[UNK]"), ("cls", "[CLS]"), ("sep", "[SEP]"))}
    lacking = [name for name in names.values() if name not in vocabulary]
    if lacking:
        raise UsageError(f"{path}/vocab.txt lacks {', '.join(lacking)}, which a WordPiece tokenizer needs")
    special = {name: {"id": name, "ids": [vocabulary[name]], "tokens": [name]} for name in (names["cls"], names["sep"])}
    template = [
        {"SpecialToken": {"id": names["cls"], "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": names["sep"], "type_id": 0}},
    ]
    pair = [{"Sequence": {"id": "B", "type_id": 1}}, {"SpecialToken": {"id": names["sep"], "type_id": 1}}]
    return {
        "added_tokens": [_added(vocabulary[t], t, True) for t in (*names.values(), "[PAD]", "[MASK]") if t in vocabulary],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": bool(config.get("tokenize_chinese_chars", True)),
            "strip_accents": config.get("strip_accents"),
            "lowercase": bool(config.get("do_lower_case", True)),
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "TemplateProcessing", "single": template, "pair": [*template, *pair], "special_tokens": special},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "vocab": vocabulary,
            "unk_token": names["unk"],
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
        },
    }


def added_tokens(path: Path, config: Mapping[str, Any]) -> Iterable[Spec]:
    """Added tokens that stand outside tokenizer.json: `added_tokens_decoder` of the configuration, and added_tokens.json."""
    decoder = config.get("added_tokens_decoder")
    for number, token in (decoder if isinstance(decoder, dict) else {}).items():
        yield {**_added(int(number), "", False), **token, "id": int(number)}
    for text, number in read_optional(path / "added_tokens.json").items():
        yield _added(int(number), text, True)


def _added(number: int, text: str, special: bool) -> Spec:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": number, "content": text, **flags, "special": special}


def _replace(pattern: Spec, content: str) -> Spec:
    return {"type": "Replace", "pattern": pattern, "content": content}


def _text(token: Any, default: str) -> str:
    """The text of a token of the configuration, which is text or a dictionary."""
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else default


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}", hint="copy or download it again") from error
