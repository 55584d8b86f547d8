"""Special tokens, what is put around a text, and chat templates: the part of a vocabulary that all kinds of tokenizer share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgecc.errors import UnsupportedError, UsageError
from edgecc.frontend.json_files import read_optional
from edgecc.targets.gguf.vocabulary.keys import KINDS, MODEL, TOKENS, Tables, Vocabulary

if TYPE_CHECKING:
    from edgecc.frontend.tokenizer import HfTokenizer

#: The name of a special token in a tokenizer's files, and in GGUF ("seperator" is GGUF's spelling).
_ROLES = {"bos": "bos", "eos": "eos", "unk": "unknown", "sep": "seperator", "pad": "padding", "mask": "mask", "cls": "cls"}
#: Texts of a token that ends a turn, the likeliest first; llama.cpp itself takes whichever it meets first in a hash table.
_TURN_ENDS = (
    "<|eot_id|>",
    "<|im_end|>",
    "<end_of_turn>",
    "<|end|>",
    "<|end_of_text|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "<end_of_utterance>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
    "<|endoftext|>",
)
_MESSAGE_END = "<|eom_id|>"
#: The tokens that llama.cpp takes where a file names none.
_DEFAULTS = {"gpt2": {"bos": 11, "eos": 11}, "llama": {"bos": 1, "eos": 2}, "bert": {}}


def complete(source: HfTokenizer, tables: Tables) -> Vocabulary:
    """The vocabulary: tables, special tokens, and chat templates, in one order."""
    model = str(tables.keys[MODEL])
    ids = _special_ids(source, len(tables.table.texts))
    first, last = _around(source)
    notes = list(tables.notes)
    for name, flag, found_there in zip(("add_bos_token", "add_eos_token"), _flags(source), (first, last), strict=True):
        if flag is not None and bool(flag) != bool(found_there):
            notes.append(f"tokenizer_config.json says {name} {flag}, tokenizer.json does otherwise and is followed, as by transformers")
    if len(first) > 1 or len(last) > 1:
        notes.append(f"the tokenizer puts the tokens {first} before and {last} after a text, llama.cpp at most one on each side")
    if model == "bert":
        ids.update(_sentence_ends(source, ids, first, last))
        if len(first) != 1 or len(last) != 1:
            notes.append("the tokenizer does not put one token before and one after a text, llama.cpp does for BERT")
    elif first:
        ids["bos"] = first[0]
    if last and model != "bert":
        ids["eos"] = last[-1]
    taken = [f"{role} {i}" for role, i in _DEFAULTS[model].items() if role not in ids and i < len(tables.table.texts)]
    if taken:
        notes.append(f"the tokenizer names none, so llama.cpp takes its own defaults: {', '.join(taken)}; a text ends at eos")
    found: dict[str, Any] = {**tables.keys, TOKENS: list(tables.table.texts), KINDS: list(tables.table.kinds)}
    found |= {f"tokenizer.ggml.{_ROLES[role]}_token_id": ids[role] for role in _ROLES if role in ids}
    found |= _turn_ends(source, tables, ids) if model != "bert" else {}
    found |= {"tokenizer.ggml.add_bos_token": bool(first), "tokenizer.ggml.add_eos_token": bool(last) and model != "bert"}
    found |= {"tokenizer.ggml.add_sep_token": True} if model == "bert" else {}
    return Vocabulary({**found, **_templates(source)}, len(tables.table.texts), tuple(notes))


def _special_ids(source: HfTokenizer, rows: int) -> dict[str, int]:
    """Ids by role, from the texts that the tokenizer's files name, else from the ids in the model's configuration."""
    named = {**read_optional(source.path / "special_tokens_map.json"), **{k: v for k, v in source.config.items() if v is not None}}
    numbered = {**read_optional(source.path / "config.json"), **read_optional(source.path / "generation_config.json")}
    found: dict[str, int] = {}
    for role in _ROLES:
        token = named.get(f"{role}_token")
        text = token.get("content") if isinstance(token, dict) else token
        number = source.tokenizer.token_to_id(text) if isinstance(text, str) else None
        if number is None and not isinstance(text, str):
            number = next(iter(_numbers(numbered.get(f"{role}_token_id"))), None)
        if number is not None and 0 <= number < rows:
            found[role] = number
    unknown = source.spec["model"].get("unk_token")
    if "unk" not in found and isinstance(unknown, str) and source.tokenizer.token_to_id(unknown) is not None:
        found["unk"] = source.tokenizer.token_to_id(unknown)
    return found


def _sentence_ends(source: HfTokenizer, ids: Mapping[str, int], first: list[int], last: list[int]) -> dict[str, int]:
    """The tokens that llama.cpp puts around every text for BERT, named, else put there by the post-processor, else by their usual text."""
    found: dict[str, int] = {}
    for role, around, text in (("cls", first, "[CLS]"), ("sep", last, "[SEP]")):
        number = ids.get(role, around[0] if around else source.tokenizer.token_to_id(text))
        if number is None:
            raise UnsupportedError(f"{source.path}: the tokenizer has no {role}_token, which llama.cpp puts around a text for BERT")
        found[role] = number
    return {**found, "bos": found["cls"]}


def _numbers(value: Any) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [v for v in values if isinstance(v, int) and not isinstance(v, bool)]


def _around(source: HfTokenizer) -> tuple[list[int], list[int]]:
    """What is put before and after a text: as the post-processor of tokenizer.json does, else as the configuration says.

    So transformers 5 has it: where there is a tokenizer.json, it drops add_bos_token and add_eos_token of the configuration.
    """
    flags = _flags(source)
    if any(flag is not None for flag in flags) and not (source.path / "tokenizer.json").is_file():
        ids = _special_ids(source, len(source.spec["model"]["vocab"]) + len(source.spec["added_tokens"]))
        first, last = ([ids[role]] if flag and role in ids else [] for flag, role in zip(flags, ("bos", "eos"), strict=True))
        return first, last
    bare, whole = source.ids("a"), source.ids("a", special=True)
    start = next((i for i in range(len(whole) - len(bare) + 1) if whole[i : i + len(bare)] == bare), 0) if bare else 0
    return whole[:start], whole[start + len(bare) :]


def _flags(source: HfTokenizer) -> list[Any]:
    return [source.config.get(name) for name in ("add_bos_token", "add_eos_token")]


def _turn_ends(source: HfTokenizer, tables: Tables, ids: Mapping[str, int]) -> dict[str, int]:
    """The tokens that end a turn and a message: by their known texts, else the second end token of generation_config.json."""
    texts = {t["content"]: t["id"] for t in source.spec["added_tokens"]}
    turn = next((texts[t] for t in _TURN_ENDS if t in texts), None)
    if turn is None:
        ends = _numbers(read_optional(source.path / "generation_config.json").get("eos_token_id"))
        turn = next((i for i in ends if i != ids.get("eos") and 0 <= i < len(tables.table.texts)), None)
    found = {} if turn is None else {"tokenizer.ggml.eot_token_id": turn}
    return {**found, "tokenizer.ggml.eom_token_id": texts[_MESSAGE_END]} if _MESSAGE_END in texts else found


def _templates(source: HfTokenizer) -> dict[str, Any]:
    """Chat templates: of the configuration, and of files, which win. The one named default, or the only one, is the template."""
    stored = source.config.get("chat_template") or read_optional(source.path / "chat_template.json").get("chat_template")
    named = {"default": stored} if isinstance(stored, str) else {}
    for entry in stored if isinstance(stored, list) else ():
        if isinstance(entry, dict) and isinstance(entry.get("name"), str) and isinstance(entry.get("template"), str):
            named[entry["name"]] = entry["template"]
    files = sorted((source.path / "additional_chat_templates").glob("*.jinja"))
    main = source.path / "chat_template.jinja"
    for name, file in [*((f.stem, f) for f in files), *([("default", main)] if main.is_file() else [])]:
        try:
            named[name] = file.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise UsageError(f"{file} cannot be read: {error}") from error
    others = {re.sub(r"[^a-z0-9_-]", "_", name.lower()): text for name, text in sorted(named.items()) if name != "default"}
    found: dict[str, Any] = {"tokenizer.chat_template": named["default"]} if "default" in named else {}
    found |= {"tokenizer.chat_templates": sorted(others)} if others else {}
    return {**found, **{f"tokenizer.chat_template.{name}": text for name, text in others.items()}}
