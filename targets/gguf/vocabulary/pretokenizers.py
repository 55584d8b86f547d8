"""The pre-tokenizers that llama.cpp b11549 knows by name for byte-level BPE, each with the patterns that it splits a text by.

A text is split by the first pattern, what comes out by the second, and so on; what matches and what lies between are pieces.
The patterns are those of the models that a name was made for: src/llama-vocab.cpp of llama.cpp. Not here: `tiny_aya` and `afmoe`,
which the runtime splits otherwise than their models do in plain text (`x  77`), and `kimi-k2`, whose models have no tokenizer.json.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgecc.diagnostics import nearest
from edgecc.errors import UsageError

_ENDINGS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_WORD = r"|[^\r\n\p{L}\p{N}]?\p{L}+"
_LLAMA3 = _ENDINGS + _WORD + r"|\p{N}{1,3}" + _REST
_QWEN2 = _ENDINGS + _WORD + r"|\p{N}" + _REST
_QWEN35 = _ENDINGS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_BEFORE = r"[^\r\n\p{L}\p{N}]?"
_SLASH = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_TEKKEN = f"{_BEFORE}{_UPPER}*{_LOWER}+|{_BEFORE}{_UPPER}+{_LOWER}*" + r"|\p{N}" + _SLASH
_CASED = f"{_BEFORE}{_UPPER}*{_LOWER}+{_ENDINGS}?|{_BEFORE}{_UPPER}+{_LOWER}*{_ENDINGS}?"
_GPT4O = _CASED + r"|\p{N}{1,3}" + _SLASH
_ASCII_MARKS = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"
_MARKED = _ASCII_MARKS + r"[A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_HAN_AND_KANA = r"[\x{4E00}-\x{9FA5}\x{3040}-\x{30FF}]+"
_EAST = r"[\x{4E00}-\x{9FA5}\x{0800}-\x{4E00}\x{AC00}-\x{D7FF}]+"
_SENTENCES = r" ?[^(\s|.,!?\x{2026}\x{3002}\x{FF0C}\x{3001}\x{0964}\x{06D4}\x{060C})]+"
_LONG_SPACES = "".join(rf"|\s{{{n}}}(?!\S)" for n in (512, 256, 128, 64, 32, 16, 8, 4, "1,2")) + r"|\s{1}"
_LATIN_CASE = "takes letters other than a to z and A to Z for both cases"


@dataclass(frozen=True)
class PreTokenizer:
    """`whole_words`: a piece that is a token is taken whole, whatever the merges say. `tidies`: llama_detokenize removes spaces before marks.

    `departs`: what llama.cpp does otherwise than these patterns, `""` where it splits as they do. `distance` orders such departures.
    """

    name: str
    patterns: tuple[str, ...]
    whole_words: bool = False
    tidies: bool = True
    departs: str = ""
    distance: int = 0

    def build(self) -> Any:
        """As a pre-tokenizer of the tokenizers library."""
        from tokenizers import Regex, pre_tokenizers

        splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in self.patterns]
        return pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


#: Names in the order of preference: of two that do the same, the one that more models use comes first.
PRE_TOKENIZERS = (
    PreTokenizer("gpt-2", (_GPT2,)),
    PreTokenizer("llama-bpe", (_LLAMA3,), whole_words=True),
    PreTokenizer("dbrx", (_LLAMA3,)),
    PreTokenizer("qwen2", (_QWEN2,), tidies=False),
    PreTokenizer("stablelm2", (_QWEN2,)),
    PreTokenizer("qwen35", (_QWEN35,), tidies=False),
    PreTokenizer("gpt-4o", (_GPT4O,), tidies=False, departs=f"{_LATIN_CASE}, and parts words at combining marks", distance=2),
    PreTokenizer("granite-embed-multi-97m", (_GPT4O,), whole_words=True, tidies=False, departs=_LATIN_CASE, distance=1),
    PreTokenizer(
        "tekken", (_TEKKEN,), whole_words=True, tidies=False, departs=f"{_LATIN_CASE}, and parts words at combining marks", distance=2
    ),
    PreTokenizer("smollm", (r"\p{N}", _GPT2), tidies=False),
    PreTokenizer("starcoder", (r"\p{N}", _GPT2)),
    PreTokenizer("trillion", (_GPT2,), tidies=False),
    PreTokenizer("deepseek-v3", (r"\p{N}{1,3}", _HAN_AND_KANA, _MARKED), tidies=False),
    PreTokenizer(
        "deepseek-llm",
        (
            r"[\r\n]",
            r"\s?[\p{Lu}\p{Ll}\p{Lt}]+",
            r"\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+",
            r"\s+$",
            _EAST,
            r"\p{N}+",
        ),
        tidies=False,
    ),
    PreTokenizer("deepseek-coder", (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _EAST, r"\p{N}"), tidies=False),
    PreTokenizer("falcon", (r"[\p{P}$+<=>^~|`]+", _GPT2, "[0-9][0-9][0-9]")),
    PreTokenizer("default", (r"[\p{P}$+<=>^~|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    PreTokenizer("bloom", (_SENTENCES,)),
    PreTokenizer("poro-chat", (_SENTENCES,), tidies=False),
    PreTokenizer("viking", (_SENTENCES, r"\p{N}"), tidies=False),
    PreTokenizer("minicpm5", (r"\p{N}{1,3}", _ENDINGS + _WORD + r"|\p{N}+" + _REST), whole_words=True),
    PreTokenizer("jais-2", (_ENDINGS + _WORD + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+" + _LONG_SPACES,)),
    PreTokenizer("seed-coder", (_ENDINGS + _WORD + r"|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+",), tidies=False),
    PreTokenizer("ufakzeka", (_WORD[1:] + r"|\p{N}" + _REST,), tidies=False),
    PreTokenizer("laguna", (r"[^\n]+|[\n]+", _QWEN2), tidies=False),
    PreTokenizer(
        "exaone-moe",
        (_ENDINGS + r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",),
    ),
    PreTokenizer("spark2_5", (r"\p{N}{1,3}", _HAN_AND_KANA, _MARKED.replace(r"+[\r\n]*|\s*[\r\n]+", r"+|[\r\n]"), r"\p{N}"), tidies=False),
    PreTokenizer("superbpe", (r"\p{N}+", r"(?=(\d{3})+(?!\d))"), tidies=False),
)
#: Names that llama.cpp takes beside these: other names of the same splits, and splits whose patterns are not here.
_OTHERS = """
    a.x-4.0 afmoe bailingmoe bailingmoe2 chameleon chatglm-bpe codeshell cohere2moe command-r deepseek-r1-qwen exaone exaone4 f2llmv2
    falcon-h1 falcon3 gemma4 gigachat glm4 glm5 gpt3-finnish granite-docling granite-embed-multi-311m grok-2 hunyuan hunyuan-dense
    hy_v4 jais jina-de jina-es jina-v1-en jina-v2-code jina-v2-de jina-v2-es jina-v5-nano joyai-llm k2-horizon kanana2 kimi-k2 kormo
    lfm2 llada-moe llama-v3 llama3 llama4 megrez mellum mellum2 midm-2.0 minerva-7b minimax-m2 mmbert modern-bert mpt olmo phi-2
    pixtral refact roberta-bpe sarvam-moe smaug-bpe solar-open talkie tiny_aya whitespace youtu
"""
NAMES = frozenset({*(p.name for p in PRE_TOKENIZERS), *_OTHERS.split()})


def require_known(name: str, known: frozenset[str] = NAMES) -> None:
    """Raises UsageError for a name that llama.cpp does not take, with the nearest that it does."""
    if name not in known:
        raise UsageError(f"the pre-tokenizer is {name!r}, which llama.cpp does not have", hint=nearest(name, known))
