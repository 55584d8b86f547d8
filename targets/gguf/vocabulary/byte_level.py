"""Byte-level BPE, `gpt2` in llama.cpp: tokens, merges, and the pre-tokenizer that does what this one does.

The pre-tokenizer is found by behaviour. Each that llama.cpp knows is put into a copy of the tokenizer in place of its own;
one that gives the same tokens for the probes and for the text of every token does. Of several, one that also splits the
probes alike is taken, so that a small vocabulary, which cannot tell all of them apart, does not decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from edgecc.errors import UnsupportedError
from edgecc.targets.gguf.vocabulary.keys import MERGES, MODEL, PRE, Tables, read_table
from edgecc.targets.gguf.vocabulary.pretokenizers import PRE_TOKENIZERS, PreTokenizer, require_known
from edgecc.targets.gguf.vocabulary.probes import PROBES

if TYPE_CHECKING:
    from edgecc.frontend.tokenizer import HfTokenizer

HINT = "--set target_options.pre_tokenizer=NAME writes one of llama.cpp's pre-tokenizers all the same"
#: Normal forms that leave plain text as it is: what they change is noted, and nothing that other normalizers change.
FORMS: tuple[Literal["NFC", "NFKC"], ...] = ("NFC", "NFKC")


def fits(source: HfTokenizer) -> bool:
    """Whether a BPE works on bytes, each written as a printable character."""
    return any(step.get("type") == "ByteLevel" for name in ("pre_tokenizer", "decoder") for step in source.steps(name))


def read(source: HfTokenizer, rows: int, pre: str = "") -> Tables:
    """Tokens, merges and pre-tokenizer. Raises UnsupportedError where no pre-tokenizer does the same, UsageError for an unknown `pre`."""
    if pre:
        require_known(pre)
    refuse_oddities(source)
    normalizers = [str(step.get("type")) for step in source.steps("normalizer")]
    foreign = sorted(set(normalizers) - set(FORMS))
    if foreign:
        raise UnsupportedError(f"{source.path}: the tokenizer changes text before it splits it ({', '.join(foreign)}), llama.cpp does not")
    table = read_table(source, rows)
    notes = tuple(f"the tokenizer brings text to {form} first, llama.cpp does not: other text gets other tokens" for form in normalizers)
    if not pre:
        found, more = identify(source)
        pre, notes = found.name, notes + more
    merges = [" ".join(pair) for pair in merge_pairs(source)]
    if not merges:
        raise UnsupportedError(f"{source.path}: the tokenizer has no merges, which llama.cpp needs")
    return Tables({MODEL: "gpt2", PRE: pre, MERGES: merges, "tokenizer.ggml.add_space_prefix": False}, table, notes)


def identify(source: HfTokenizer) -> tuple[PreTokenizer, tuple[str, ...]]:
    """The pre-tokenizer of llama.cpp that does what that of `source` does, with notes on what remains different."""
    from edgecc.frontend.tokenizer import build

    copy = build(source.spec, str(source.path))
    texts = _texts(source)
    wanted = [e.ids for e in source.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
    splits = _splits(source.tokenizer, source.tokenizer.pre_tokenizer)
    same_words, tidies = bool(source.spec["model"].get("ignore_merges")), bool(source.config.get("clean_up_tokenization_spaces"))
    best: tuple[tuple[int, ...], PreTokenizer] | None = None
    nearest: tuple[int, PreTokenizer] | None = None
    for candidate in PRE_TOKENIZERS:
        copy.pre_tokenizer = candidate.build()
        copy.model.ignore_merges = candidate.whole_words
        wrong = _wrong(copy, texts, wanted)
        if wrong and (nearest is None or len(wrong) < nearest[0]):
            nearest = len(wrong), candidate
        if wrong:
            continue
        alike = _splits(copy, copy.pre_tokenizer) == splits
        rank = (alike, -candidate.distance, candidate.whole_words == same_words, candidate.tidies == tidies)
        if best is None or rank > best[0]:
            best = rank, candidate
    if best is None:
        assert nearest is not None
        raise _unknown(source, copy, nearest[1], texts)
    name, departs = best[1].name, best[1].departs
    notes = (
        ()
        if best[0][0]
        else (f"no pre-tokenizer of llama.cpp splits as this one does; {name} gives the same tokens on {len(texts)} texts",)
    )
    return best[1], (*notes, f"llama.cpp's {name} {departs}: such text gets other tokens") if departs else notes


def _wrong(copy: Any, texts: Sequence[str], wanted: Sequence[list[int]]) -> list[int]:
    """Where the copy gives other tokens: of the probes first, and of the tokens' own texts only where those are right."""
    for start, stop in ((0, len(PROBES)), (len(PROBES), len(texts))):
        given = copy.encode_batch_fast(list(texts[start:stop]), add_special_tokens=False)
        wrong = [i for i, (a, b) in enumerate(zip(given, wanted[start:stop], strict=True), start) if a.ids != b]
        if wrong:
            return wrong
    return []


def _splits(tokenizer: Any, pre_tokenizer: Any) -> list[list[str]]:
    """The pieces of each probe."""
    normalizer = tokenizer.normalizer
    normal = [normalizer.normalize_str(text) if normalizer else text for text in PROBES]
    return [[piece for piece, _ in pre_tokenizer.pre_tokenize_str(text)] if pre_tokenizer else [text] for text in normal]


def _texts(source: HfTokenizer) -> list[str]:
    """The probes, and what each token of the model stands for where that is text by itself."""
    alone = source.tokenizer.decode_batch([[i] for i in sorted(source.spec["model"]["vocab"].values())], skip_special_tokens=False)
    return [*PROBES, *(text for text in alone if text and "\ufffd" not in text)]


def _unknown(source: HfTokenizer, copy: Any, nearest: PreTokenizer, texts: Sequence[str]) -> UnsupportedError:
    copy.pre_tokenizer = nearest.build()
    copy.model.ignore_merges = nearest.whole_words
    wanted, given, text = next(
        (a.tokens, b.tokens, t)
        for t in texts
        for a, b in [(source.tokenizer.encode(t, add_special_tokens=False), copy.encode(t, add_special_tokens=False))]
        if a.ids != b.ids
    )
    return UnsupportedError(
        f"no pre-tokenizer of llama.cpp splits text as that of {source.path} does; the nearest is {nearest.name}, "
        f"which for {text!r} gives {given}, want {wanted}",
        hint=HINT,
    )


def refuse_oddities(source: HfTokenizer) -> None:
    """Refuse parts of a BPE model that llama.cpp does not have."""
    model = source.spec["model"]
    odd = [name for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix") if model.get(name)]
    if odd:
        raise UnsupportedError(f"{source.path}: the tokenizer has {', '.join(f'{n}={model[n]!r}' for n in odd)}, llama.cpp has no such BPE")


def merge_pairs(source: HfTokenizer) -> list[tuple[str, str]]:
    """The merges in order, from either form in which tokenizer.json writes them. Raises UnsupportedError for a token with a space."""
    pairs: list[tuple[str, str]] = []
    for merge in source.spec["model"].get("merges") or ():
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        if " " in left + right:
            raise UnsupportedError(f"{source.path}: the merge of {left!r} and {right!r} has a space, which separates the two in GGUF")
        pairs.append((left, right))
    return pairs
