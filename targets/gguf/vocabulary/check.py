"""Whether llama.cpp gives the tokens that the Hugging Face tokenizer gives: the last word on a vocabulary that was written."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import edgecc
from edgecc.errors import ContractError, MissingToolError, UnsupportedError
from edgecc.targets.gguf.runtime.wheel import shared_library
from edgecc.targets.gguf.vocabulary.probes import PROBES

_HINT = "--set target_options.pre_tokenizer=NAME writes another of llama.cpp's pre-tokenizers"
_SECONDS = 600
_PLAIN = re.compile(r"[ -~\t\r\n]*")


@dataclass(frozen=True)
class Difference:
    """A text for which llama.cpp gives other tokens. Tokens as text, ids beside."""

    text: str
    wanted: tuple[int, ...]
    found: tuple[int, ...]
    wanted_tokens: tuple[str, ...]
    found_tokens: tuple[str, ...]

    def __str__(self) -> str:
        return f"for {self.text!r} llama.cpp gives {list(self.found_tokens)} {list(self.found)}, want {list(self.wanted_tokens)} {list(self.wanted)}"


def check_vocabulary(file: Path, directory: Path, texts: Sequence[str] = PROBES) -> list[Difference]:
    """The texts that llama.cpp, with the vocabulary in `file`, tokenizes otherwise than the tokenizer of `directory`.

    Text is brought to NFC or NFKC first where the tokenizer does so, and loses spaces at its start where the tokenizer reads one of
    them as the space that llama.cpp adds. Raises ContractError where llama.cpp does not load the file, MissingToolError without
    xllamacpp or tokenizers.
    """
    from edgecc.frontend.tokenizer import read_tokenizer
    from edgecc.targets.gguf.vocabulary.byte_level import FORMS
    from edgecc.targets.gguf.vocabulary.sentencepiece import comparable

    source = read_tokenizer(directory)
    forms = [form for form in FORMS if form in [step.get("type") for step in source.steps("normalizer")]]
    given = [comparable(source, unicodedata.normalize(forms[-1], text) if forms else text) for text in texts]
    ids, _ = tokenize(file, given)
    differences = []
    for text, found in zip(given, ids, strict=True):
        wanted = source.ids(text)
        if wanted != found:
            tokens = [tuple(str(source.tokenizer.id_to_token(i)) for i in row) for row in (wanted, found)]
            differences.append(Difference(text, tuple(wanted), tuple(found), *tokens))
    return differences


def accept(differences: Sequence[Difference], directory: Path, count: int = len(PROBES), *, refuses: bool = True) -> tuple[str, ...]:
    """Notes on the differences in `count` texts, none or one. llama.cpp knows less of Unicode than most tokenizers: that is noted.

    Raises UnsupportedError, with the first text, where text of ASCII alone differs or more than a tenth of all texts; not where
    `refuses` is false, as where the user named the pre-tokenizer.
    """
    if not differences:
        return ()
    plain = [d for d in differences if _PLAIN.fullmatch(d.text)]
    wrong = plain or list(differences)
    what = f"llama.cpp tokenizes {len(differences)} of {count} texts otherwise than the tokenizer of {directory}: {wrong[0]}"
    if refuses and (plain or 10 * len(differences) > count):
        raise UnsupportedError(what, hint=_HINT)
    return (what,)


def tokenize(file: Path, texts: Sequence[str], *, special: bool = False) -> tuple[list[list[int]], list[list[bytes]]]:
    """Token ids of each text by llama.cpp, and the bytes that each token stands for; `special`: with tokens put around.

    Special tokens in a text are found. Raises ContractError where llama.cpp does not load the file, or aborts, MissingToolError
    where it is not installed.
    """
    shared_library()
    request = json.dumps({"texts": list(texts), "special": special}).encode()
    command = [sys.executable, "-m", "edgecc.targets.gguf.vocabulary.child", str(file.resolve())]
    root = Path(edgecc.__file__).parents[1]  # so that `-m edgecc...` is this edgecc
    environment = {**os.environ, "GGML_NO_BACKTRACE": "1"}
    try:
        run = subprocess.run(command, input=request, capture_output=True, check=False, timeout=_SECONDS, cwd=root, env=environment)
    except subprocess.TimeoutExpired as error:
        raise ContractError(f"llama.cpp did not tokenize {len(texts)} texts in {_SECONDS} s, with the vocabulary of {file}") from error
    if run.returncode:
        last = (run.stderr.decode(errors="replace").strip() or "no message").splitlines()[-1]
        raise ContractError(f"llama.cpp ended with status {run.returncode} on the vocabulary of {file}: {last}")
    answer = json.loads(run.stdout)
    if "missing" in answer:
        raise MissingToolError(answer["missing"], hint=answer["hint"])
    if "error" in answer:
        raise ContractError(f"llama.cpp does not load the vocabulary of {file}: {answer['error']}")
    return answer["ids"], [[bytes.fromhex(piece) for piece in row] for row in answer["pieces"]]
