"""The tokenizer of a Hugging Face directory, by the tokenizers library: no code of the directory, no pickle, no network."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecc.errors import MissingToolError, RefusedError, UnsupportedError, UsageError
from edgecc.frontend import tokenizer_files as files
from edgecc.frontend.json_files import read_object, read_optional
from edgecc.frontend.reason import reason

_LOOKED_FOR = ("tokenizer.json", "tokenizer.model", "vocab.json with merges.txt", "vocab.txt")
_CUSTOM = ("tiktoken.model", "qwen.tiktoken", "tokenizer.tiktoken")


@dataclass(frozen=True)
class HfTokenizer:
    """`spec`: what tokenizer.json holds, or would hold; `tokenizer`: the tokenizers.Tokenizer of it, without padding and truncation.

    `config`: tokenizer_config.json; `scores`: of the pieces of a SentencePiece model, empty where there is none.
    """

    path: Path
    spec: Mapping[str, Any]
    tokenizer: Any
    config: Mapping[str, Any]
    scores: tuple[float, ...] = ()

    def ids(self, text: str, *, special: bool = False) -> list[int]:
        """Token ids of a text; `special`: with the tokens that the post-processor puts around it."""
        return list(self.tokenizer.encode(text, add_special_tokens=special).ids)

    def steps(self, part: str) -> list[Mapping[str, Any]]:
        """The steps of the part `normalizer`, `pre_tokenizer` or `decoder`, sequences unrolled."""
        return list(_steps(self.spec.get(part)))


def read_tokenizer(path: Path) -> HfTokenizer:
    """The tokenizer of a directory.

    Raises UsageError for missing or damaged files, RefusedError for a tokenizer that needs Python code of the directory,
    UnsupportedError for a kind that is not read, MissingToolError without the tokenizers library.
    """
    config = read_optional(path / "tokenizer_config.json")
    spec, scores = _spec(path, config)
    spec = {**spec, "version": "1.0", "added_tokens": _added_tokens(path, spec, config)}
    return HfTokenizer(path, spec, build(spec, str(path)), config, scores)


def build(spec: Mapping[str, Any], origin: str) -> Any:
    """The tokenizers.Tokenizer of a specification. Raises UsageError where the library does not read it, MissingToolError without it."""
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MissingToolError(f"{origin}: reading a tokenizer needs the tokenizers library", hint="pip install 'edgecc[gguf]'") from error
    try:
        tokenizer = Tokenizer.from_str(json.dumps(dict(spec)))
    except Exception as error:  # the library raises plain Exception for whatever does not fit
        raise UsageError(f"{origin}: the tokenizer is damaged, or of a kind that is not known: {reason(error)}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _steps(part: Any) -> Iterator[Mapping[str, Any]]:
    if not isinstance(part, dict):
        return
    inner = next((part[name] for name in ("normalizers", "pretokenizers", "decoders") if name in part), None)
    if inner is None:
        yield part
    for step in inner or ():
        yield from _steps(step)


def _spec(path: Path, config: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[float, ...]]:
    model = path / "tokenizer.model"
    if (path / "tokenizer.json").is_file():
        spec = read_object(path / "tokenizer.json")
        if not isinstance(spec.get("model"), dict):
            raise UsageError(f"{path}/tokenizer.json has no model: it is no tokenizer", hint="copy or download it again")
        return spec, _scores(model, spec)
    _refuse_code(path, config)
    if model.is_file():
        return files.from_sentencepiece(model, config)
    if (path / "vocab.json").is_file() and (path / "merges.txt").is_file():
        return files.from_vocabulary_and_merges(path, config), ()
    if (path / "vocab.txt").is_file():
        return files.from_wordpiece(path, config), ()
    raise UsageError(f"{path} has no tokenizer; looked for {', '.join(_LOOKED_FOR)}", hint="copy the tokenizer's files beside config.json")


def _added_tokens(path: Path, spec: Mapping[str, Any], config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Those of the specification, and those of other files that it does not have."""
    try:
        own = list(spec.get("added_tokens") or ())
        known = {token["id"] for token in own}
        extra = {t["id"]: t for t in files.added_tokens(path, config) if t["id"] not in known and t["content"]}
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"{path}: the added tokens of the tokenizer are damaged: {reason(error)}", hint="copy or download it again"
        ) from error
    return [*own, *(extra[i] for i in sorted(extra))]


def _scores(model: Path, spec: Mapping[str, Any]) -> tuple[float, ...]:
    """Scores of a SentencePiece model beside tokenizer.json, where both hold the same tokens."""
    if not model.is_file() or spec["model"].get("type") != "BPE":
        return ()
    try:
        found, scores = files.from_sentencepiece(model, {})
    except (UsageError, UnsupportedError):  # a file of another kind by the same name, and not needed
        return ()
    ids = spec["model"].get("vocab") or {}
    return (
        scores if all(i in (ids.get(text), ids.get(text.replace(" ", files.SPACE))) for text, i in found["model"]["vocab"].items()) else ()
    )


def _refuse_code(path: Path, config: Mapping[str, Any]) -> None:
    code = config.get("auto_map")
    named = code.get("AutoTokenizer") if isinstance(code, dict) else None
    found = [name for name in _CUSTOM if (path / name).is_file()]
    if named or found:
        why = f"auto_map names {named}" if named else f"it holds {', '.join(found)}"
        raise RefusedError(
            f"the tokenizer of {path} is Python code ({why}), which is not run",
            hint="write a tokenizer.json with tokenizers or transformers yourself, and put it into the directory",
        )
