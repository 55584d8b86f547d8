"""Read `tokenizer.model`, the protocol buffer of SentencePiece, without its library.

Fields of ModelProto: 1 pieces (1 text, 2 score, 3 type), 2 trainer (3 model type, 24 whitespace as suffix), 3 normalizer
(2 precompiled map, 3 dummy prefix, 4 extra whitespace removed, 5 whitespace escaped). https://github.com/google/sentencepiece, sentencepiece_model.proto
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgecc.errors import UsageError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
_KINDS: dict[int | bytes, str] = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}


@dataclass(frozen=True)
class Piece:
    """`kind`: NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED or BYTE. The id is the place in the list."""

    text: str
    score: float
    kind: int


@dataclass(frozen=True)
class SentencePieceModel:
    """`kind`: bpe, unigram, word or char. `charsmap`: the compiled normalization, empty for none.

    `prefix`: a space is put before a text; `strips`: repeated spaces are dropped; `usual`: a space is U+2581 at the start of a word.
    """

    pieces: tuple[Piece, ...]
    kind: str
    charsmap: bytes
    prefix: bool
    strips: bool
    usual: bool


def read_sentencepiece(path: Path) -> SentencePieceModel:
    """The model of a file. Raises UsageError where it is no SentencePiece model."""
    pieces: list[Piece] = []
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    try:
        for field, value in _fields(path.read_bytes()):
            if field == 1:
                pieces.append(_piece(_bytes(value)))
            elif field == 2:
                trainer = dict(_fields(_bytes(value)))
            elif field == 3:
                normalizer = dict(_fields(_bytes(value)))
        kind, charsmap = _KINDS.get(trainer.get(3, 1), ""), _bytes(normalizer.get(2, b""))
    except (ValueError, IndexError, TypeError, struct.error) as error:
        raise UsageError(f"{path} is damaged, or no SentencePiece model: {error}", hint="copy or download it again") from error
    if not pieces:
        raise UsageError(f"{path} holds no pieces: it is no SentencePiece model", hint="copy or download it again")
    prefix, strips = bool(normalizer.get(3, 1)), bool(normalizer.get(4, 1))
    return SentencePieceModel(tuple(pieces), kind, charsmap, prefix, strips, not trainer.get(24, 0) and bool(normalizer.get(5, 1)))


def _piece(data: bytes) -> Piece:
    fields = dict(_fields(data))
    score = struct.unpack("<f", _bytes(fields[2]))[0] if 2 in fields else 0.0
    kind = fields.get(3, NORMAL)
    if not isinstance(kind, int) or not NORMAL <= kind <= BYTE:
        raise ValueError(f"a piece is of type {kind!r}")
    return Piece(_bytes(fields.get(1, b"")).decode("utf-8"), score, kind)


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Numbers and values of a message: integers of wire type 0, bytes of the others. Raises ValueError, IndexError."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 0:
            number, at = _varint(data, at)
            yield tag >> 3, number
            continue
        if kind == 2:
            size, at = _varint(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind} at byte {at}")
        if at + size > len(data):
            raise ValueError(f"it ends inside a field at byte {at}")
        yield tag >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[at]
        number |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return number, at
        if shift > 63:
            raise ValueError(f"a number of more than 64 bits at byte {at}")


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError(f"found the number {value}, want bytes")
    return value
