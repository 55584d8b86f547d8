"""A child process that tokenizes with the vocabulary of a GGUF file in llama.cpp, which aborts on what it does not expect.

    python -m edgecc.targets.gguf.vocabulary.child FILE.gguf < request.json

The request is `{"texts": [...], "special": bool}`; the answer is `{"ids": [[...]], "pieces": [[hex, ...]]}` in the order of
the texts, or `{"error": text}` where the file does not load, `{"missing": text, "hint": text}` where llama.cpp is not as expected.
"""

from __future__ import annotations

import ctypes
import json
import sys
from typing import Any

from edgecc.errors import MissingToolError
from edgecc.targets.gguf.runtime.library import Library
from edgecc.targets.gguf.runtime.wheel import unknown_build

#: Where `vocab_only` lies in llama_model_params, the first of its flags, by the defaults of the flags from there on.
_FLAGS = {72: (0, 0, 1, 0, 0, 0), 64: (0, 1, 0, 0, 0, 1, 0, 0)}
_LONGEST = 4096  # bytes of a token


def main() -> None:
    try:
        json.dump(_answer(json.loads(sys.stdin.buffer.read()), Library()), sys.stdout)
    except MissingToolError as error:
        json.dump({"missing": error.message, "hint": error.hint}, sys.stdout)


def _answer(request: dict[str, Any], library: Library) -> dict[str, Any]:
    model = library.call.llama_model_load_from_file(sys.argv[1].encode(), _vocabulary_only(library))
    if not model:
        return {"error": " ".join(library.errors) or "llama.cpp gave no reason"}
    vocabulary = library.call.llama_model_get_vocab(model)
    ids = [_ids(library, vocabulary, text.encode(), request["special"]) for text in request["texts"]]
    pieces = {i: _piece(library, vocabulary, i) for i in {i for row in ids for i in row}}
    return {"ids": ids, "pieces": [[pieces[i] for i in row] for row in ids]}


def _vocabulary_only(library: Library) -> Any:
    """Parameters by which no tensor is loaded. Raises MissingToolError for a build that is laid out in an unknown way."""
    data = bytes(library.model_parameters)
    place = next((o for o, flags in _FLAGS.items() if tuple(data[o : o + len(flags)]) == flags), None)
    if place is None:
        raise unknown_build("the flags of its model parameters are laid out in a way that edgecc does not know")
    return type(library.model_parameters).from_buffer_copy(data[:place] + b"\x01" + data[place + 1 :])


def _ids(library: Library, vocabulary: int, text: bytes, special: bool) -> list[int]:
    """Tokens of a text, in which special tokens are found; `special`: with what the vocabulary puts around it."""
    room = len(text) + 8  # a token a byte, a space, and two around
    out = (ctypes.c_int32 * room)()
    count = library.call.llama_tokenize(vocabulary, text, len(text), out, room, special, True)
    assert 0 <= count <= room, count
    return list(out[:count])


def _piece(library: Library, vocabulary: int, token: int) -> str:
    out = ctypes.create_string_buffer(_LONGEST)
    count = library.call.llama_token_to_piece(vocabulary, token, out, _LONGEST, 0, True)
    return out.raw[: max(count, 0)].hex()


if __name__ == "__main__":
    main()
