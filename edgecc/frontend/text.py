"""Text for language models: a plain text file and the tokenizer of the model's directory become samples, to calibrate and to evaluate with.

A decoder reads the text as one stream of tokens, without a token that marks the start, cut into windows one after the
other; what is left at the end is dropped. An encoder, whose tokenizer puts a token before and one after a text, reads a
line as a sentence: cut where it is too long, padded where the model takes one length and a mask.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from edgecc.calibration import CalibrationSet
from edgecc.errors import UsageError
from edgecc.frontend.json_files import read_optional
from edgecc.frontend.tokenizer import HfTokenizer, read_tokenizer
from edgecc.ir.signature import Signature, TensorSpec

#: What an input holds, by a part of its name; an integer input of another name takes the token ids.
_ROLES = {"mask": "mask", "type": "zeros", "segment": "zeros", "position": "positions"}
_INTEGERS = (torch.int64, torch.int32)


def samples(path: Path, directory: Path, signature: Signature, *, window: int = 256, limit: int = 0) -> CalibrationSet:
    """Samples of the text in `path`, at most `limit` (0: all), by the tokenizer of the Hugging Face `directory`.

    Token ids, a mask of ones, token types of zeros and positions, for the inputs of `signature` by their names, batch 1 where
    it is dynamic. Windows are as long as the model takes; where that is dynamic, `window` tokens, a sentence its own length up to
    `window`. Raises UsageError for text that is missing, not UTF-8 or too short, and for a model that does not take tokens; and
    as read_tokenizer does.
    """
    inputs = _inputs(signature, window)
    text = _Text(path, read_tokenizer(directory), inputs)
    if not text.rows:
        raise UsageError(text.lack)
    source = _Source(text, inputs, limit)
    return CalibrationSet(source.__iter__, signature, str(path))


@dataclass(frozen=True)
class _Inputs:
    """Inputs by role. A row has `least` to `length` tokens, a sample `batch` rows."""

    roles: dict[str, str]
    specs: dict[str, TensorSpec]
    batch: int
    least: int
    length: int

    @property
    def masked(self) -> bool:
        return "mask" in self.roles.values()


@dataclass(frozen=True)
class _Text:
    path: Path
    tokenizer: HfTokenizer
    inputs: _Inputs

    @cached_property
    def rows(self) -> list[list[int]]:
        """Token ids of each row, not padded."""
        return list(self._sentences() if self._is_encoder() else self._windows())

    @property
    def lack(self) -> str:
        if self._is_encoder():
            return f"no line of {self.path} fills the {self.inputs.least} tokens that the model takes without a mask"
        found = len(self.tokenizer.ids(self._read()))
        return f"{self.path} is shorter than one window: {found} tokens, want at least {self.inputs.length}"

    def _windows(self) -> Iterator[list[int]]:
        ids, length = self.tokenizer.ids(self._read()), self.inputs.length
        for start in range(0, len(ids) - length + 1, length):
            yield ids[start : start + length]

    def _sentences(self) -> Iterator[list[int]]:
        lines = [line.strip() for line in self._read().splitlines() if line.strip()]
        self.tokenizer.tokenizer.enable_truncation(self.inputs.length)
        for found in self.tokenizer.tokenizer.encode_batch(lines):
            if len(found.ids) >= self.inputs.least or self.inputs.masked:
                yield list(found.ids)

    def _is_encoder(self) -> bool:
        """Whether a text is put between tokens, as for BERT. A decoder with a token before and after a text is one by its class."""
        names = read_optional(self.tokenizer.path / "config.json").get("architectures") or ()
        bare, whole = (self.tokenizer.ids("a", special=special) for special in (False, True))
        around = bool(bare) and len(whole) >= len(bare) + 2 and whole[0] != bare[0] and whole[-1] != bare[-1]
        return around and not any("CausalLM" in str(name) for name in names)

    @cached_property
    def padding(self) -> int:
        """The token that fills a row."""
        token = self.tokenizer.config.get("pad_token", "[PAD]")
        text = token.get("content") if isinstance(token, dict) else token
        found = self.tokenizer.tokenizer.token_to_id(text) if isinstance(text, str) else None
        return int(found) if found is not None else 0

    def _read(self) -> str:
        try:
            return self.path.read_bytes().decode("utf-8")
        except OSError as error:
            raise UsageError(f"{self.path} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise UsageError(f"{self.path} is not UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}") from error


@dataclass(frozen=True)
class _Source:
    """The samples, made one at a time from the rows."""

    text: _Text
    inputs: _Inputs
    limit: int

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        rows, batch = self.text.rows, self.inputs.batch
        count = max(1, len(rows) // batch)  # a text of fewer rows repeats them
        for number in range(min(count, self.limit) if self.limit else count):
            chosen = [rows[(number * batch + i) % len(rows)] for i in range(batch)]
            sizes = [len(ids) for ids in chosen]
            length = max(self.inputs.least, *sizes) if self.inputs.masked else min(sizes)
            padded = [[*ids[:length], *[self.text.padding] * (length - len(ids))] for ids in chosen]
            filled = torch.arange(length) < torch.tensor(sizes)[:, None]
            values = {
                "ids": torch.tensor(padded),
                "mask": filled,
                "zeros": torch.zeros(batch, length),
                "positions": torch.arange(length).expand(batch, length),
            }
            yield {name: self._shaped(values[role], self.inputs.specs[name]) for name, role in self.inputs.roles.items()}

    def _shaped(self, value: torch.Tensor, spec: TensorSpec) -> torch.Tensor:
        """Rows without their batch axis where the input has none."""
        return (value if len(spec.shape) == 2 else value[0]).to(spec.dtype).contiguous()


def _inputs(signature: Signature, window: int) -> _Inputs:
    specs = {s.name: s for s in signature.inputs}
    flat = all(len(s.shape) in (1, 2) for s in specs.values())
    roles = {name: next((role for part, role in _ROLES.items() if part in name.lower()), "ids") for name in specs}
    if len(specs) == 1:
        roles = dict.fromkeys(specs, "ids")
    ids = [specs[name] for name, role in roles.items() if role == "ids"]
    if not flat or len(ids) != 1 or ids[0].dtype not in _INTEGERS:
        raise UsageError(
            "text fits a model of one input of token ids, with a mask, token types and positions beside it; the program takes "
            + "; ".join(map(str, specs.values())),
            hint="give samples by a function, --calibration file.py:samples",
        )
    shape = ids[0].shape
    dims = {d.name: d for d in signature.dims}
    size, rows = shape[-1], shape[0] if len(shape) == 2 else 1
    batch = rows if isinstance(rows, int) else max(1, dims[rows].lower) if rows in dims else 1
    if isinstance(size, int):
        return _Inputs(roles, specs, batch, size, size)
    dim = dims.get(size)
    lower, upper = (dim.lower, dim.upper) if dim else (1, None)
    return _Inputs(roles, specs, batch, max(1, lower), max(lower, min(window, upper if upper is not None else window)))
