"""SentencePiece BPE with byte fallback: `llama` in llama.cpp, which merges by the score of the merged token, not by a list of merges.

The two agree where the merges are all pairs that make a token, in the order of a score for each token, as in a file that came from
SentencePiece. Others, such as those that the tokenizers library trains, are written with their merges as llama.cpp's `sarvam-moe`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgecc.errors import UnsupportedError
from edgecc.frontend.sentencepiece_model import BYTE, NORMAL, UNKNOWN, USER_DEFINED
from edgecc.frontend.tokenizer_files import SPACE, merges_of
from edgecc.targets.gguf.vocabulary.byte_level import HINT, merge_pairs, refuse_oddities
from edgecc.targets.gguf.vocabulary.keys import MERGES, MODEL, PRE, SCORES, Table, Tables, read_table
from edgecc.targets.gguf.vocabulary.pretokenizers import NAMES, require_known
from edgecc.targets.gguf.vocabulary.probes import PROBES

if TYPE_CHECKING:
    from edgecc.frontend.tokenizer import HfTokenizer

_BYTES = frozenset(f"<0x{byte:02X}>" for byte in range(256))
_PREFIX = "tokenizer.ggml.add_space_prefix"
_SCORED, _MERGED = "llama", "sarvam-moe"


def read(source: HfTokenizer, rows: int, pre: str = "") -> Tables:
    """Tokens with scores, as `llama`, or with merges and another `pre`.

    Raises UnsupportedError where neither way gives this tokenizer's tokens, UsageError for an unknown `pre`.
    """
    if pre:
        require_known(pre, NAMES | {_SCORED})
    refuse_oddities(source)
    model = source.spec["model"]
    unknown = model.get("unk_token")
    table = read_table(source, rows, kind=lambda t: UNKNOWN if t == unknown else BYTE if t in _BYTES else NORMAL)
    # llama.cpp looks for user-defined tokens before it writes spaces as U+2581
    texts = tuple(t.replace(SPACE, " ") if k == USER_DEFINED else t for t, k in zip(table.texts, table.kinds, strict=True))
    kinds = tuple(UNKNOWN if t == unknown else k for t, k in zip(texts, table.kinds, strict=True))
    table = Table(texts, kinds)
    prefix = _has_prefix(source)
    pairs = merge_pairs(source)
    scores = _scores(source, pairs)
    if not pre:
        pre = _choose(source, scores, pairs, prefix, kinds.count(BYTE))
    if pre != _SCORED:
        return Tables({MODEL: "gpt2", PRE: pre, MERGES: [" ".join(p) for p in pairs], _PREFIX: False}, table)
    # a token of no score is never the better merge; unused and added tokens are not merged at all
    listed = [float(scores.get(t, -1e6)) if k in (NORMAL, USER_DEFINED) else 0.0 for t, k in zip(texts, kinds, strict=True)]
    return Tables(
        {MODEL: "llama", PRE: "default", SCORES: listed, _PREFIX: prefix},
        table,
        _prefix_notes(source, USER_DEFINED in kinds) if prefix else (),
    )


def _scores(source: HfTokenizer, pairs: Sequence[tuple[str, str]]) -> dict[str, float]:
    """The score of each token: that of the SentencePiece model where there is one, else minus the place of its first merge."""
    vocabulary: Mapping[str, int] = source.spec["model"]["vocab"]
    if source.scores:
        return {t: source.scores[i] for t, i in vocabulary.items() if i < len(source.scores) and t not in _BYTES}
    places: dict[str, int] = {}
    for left, right in pairs:
        places.setdefault(left + right, len(places) + 1)
    last = len(places) + 1
    added = {token["content"] for token in source.spec["added_tokens"]}
    return {t: -float(places.get(t, last + i)) for t, i in vocabulary.items() if t not in added and t not in _BYTES}


def _choose(source: HfTokenizer, scores: Mapping[str, float], pairs: Sequence[tuple[str, str]], prefix: bool, byte_tokens: int) -> str:
    """`llama` or `sarvam-moe`, whichever gives this tokenizer's tokens for the probes, tried in copies that do what llama.cpp does."""
    if byte_tokens != len(_BYTES):  # llama.cpp ends at a character that is no token, or leaves it out
        raise UnsupportedError(f"{source.path}: the tokenizer has {byte_tokens} of the {len(_BYTES)} byte tokens that llama.cpp needs")
    vocabulary = source.spec["model"]["vocab"]
    wrong = _first_difference(source, _copy(source, merges_of(scores, vocabulary), prefix, None))
    if wrong is None:
        return _SCORED
    lines = {"type": "Split", "pattern": {"Regex": r"[^\n]+|[\n]+"}, "behavior": "Isolated", "invert": False}
    if pairs and _first_difference(source, _copy(source, pairs, False, lines)) is None:
        return _MERGED
    text, wanted, given = wrong
    raise UnsupportedError(
        f"llama.cpp has no tokenizer like that of {source.path}: as {_SCORED} it would give {given} for {text!r}, want {wanted}", hint=HINT
    )


def _copy(source: HfTokenizer, merges: Sequence[tuple[str, str]], prefix: bool, split: Any) -> Any:
    """The tokenizer with other merges, and the only normalization that llama.cpp has: spaces become U+2581, one may be put first."""
    from edgecc.frontend.tokenizer import build

    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    first = [{"type": "Prepend", "prepend": SPACE}] if prefix else []
    model = {**source.spec["model"], "merges": [list(m) for m in merges], "ignore_merges": False}
    spec = {**source.spec, "normalizer": {"type": "Sequence", "normalizers": [*first, replace]}, "pre_tokenizer": split, "model": model}
    return build(spec, str(source.path))


def _first_difference(source: HfTokenizer, copy: Any) -> tuple[str, list[str], list[str]] | None:
    """The first text that the copy gives other tokens for, wanted and given, among the probes and the texts of the tokens."""
    alone = (t.replace(SPACE, " ") for t in sorted(source.spec["model"]["vocab"]) if t not in _BYTES)
    texts = [comparable(source, text) for text in (*PROBES, *alone)]
    wanted = source.tokenizer.encode_batch(texts, add_special_tokens=False)
    given = copy.encode_batch(texts, add_special_tokens=False)
    return next(((t, a.tokens, b.tokens) for t, a, b in zip(texts, wanted, given, strict=True) if a.ids != b.ids), None)


def comparable(source: HfTokenizer, text: str) -> str:
    """The text without spaces at its start where the tokenizer puts one space there only if there is none: llama.cpp always puts one."""
    return text.lstrip(" ") if _metaspace(source) not in ("", "never") else text


def _metaspace(source: HfTokenizer) -> str:
    """When a Metaspace pre-tokenizer puts a space in front: always, first, never; `""` where there is no such step."""
    found = [step for step in source.steps("pre_tokenizer") if step.get("type") == "Metaspace"]
    return str(found[0].get("prepend_scheme", "always")) if found else ""


def _prefix_notes(source: HfTokenizer, user_defined: bool) -> tuple[str, ...]:
    """What a space before a text does in llama.cpp that it does not do in the tokenizer."""
    scheme = _metaspace(source)
    notes = ("text that starts with a space gets one more from llama.cpp",) if scheme in ("always", "first") else ()
    alone = user_defined and not (source.path / "tokenizer.json").is_file()  # SentencePiece itself puts a space only before the whole
    return (*notes, "text after a special token gets a space from llama.cpp") if scheme == "first" or alone else notes


def _has_prefix(source: HfTokenizer) -> bool:
    """Whether a text that starts with a letter gets a space in front."""
    text = source.tokenizer.normalizer.normalize_str("a") if source.tokenizer.normalizer else "a"
    pieces = source.tokenizer.pre_tokenizer.pre_tokenize_str(text) if source.tokenizer.pre_tokenizer else [(text, (0, 1))]
    return bool(pieces) and str(pieces[0][0]).startswith(SPACE)
