"""The child process: loads one GGUF file with llama.cpp and answers commands until its input ends.

`python -m edgecc.targets.gguf.runtime.child`; messages are those of protocol.py. A request is `{"command": NAME, ...}`;
an answer holds a value or arrays, or an error with its class. What llama.cpp prints goes to standard error.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgecc.errors import EdgeccError
from edgecc.targeting.generation import Sampling
from edgecc.targets.gguf.runtime import protocol
from edgecc.targets.gguf.runtime.answers import Answers


def main() -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt ends
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a runtime prints is no answer
    answers: Answers | None = None
    while True:
        try:
            fields, arrays = protocol.receive(requests)
        except EOFError:
            return 0
        try:
            command = fields.pop("command")
            if command == "load":
                answers = Answers(fields["path"], fields["threads"])
                result: Any = answers.facts()
            else:
                assert answers is not None
                result = _answer(answers, command, fields, arrays)
        except EdgeccError as error:
            protocol.send(replies, {"error": {"kind": type(error).__name__, "message": error.message, "hint": error.hint}})
            continue
        if isinstance(result, np.ndarray):
            protocol.send(replies, {}, [result])
        else:
            protocol.send(replies, {"value": result})


def _answer(answers: Answers, command: str, fields: Mapping[str, Any], arrays: Sequence[protocol.Array]) -> Any:
    """A JSON value or an array."""
    match command:
        case "logits" | "detokenize":
            return getattr(answers, command)(arrays[0])
        case "embeddings":
            return answers.embeddings(arrays[0], fields["pooled"])
        case "begin":
            return answers.begin(arrays[0], fields["limit"], Sampling(**fields["sampling"]))
        case "tokenize":
            return answers.tokenize(fields["text"], fields["special"])
        case "speed":
            return answers.speed(fields["prompt"], fields["new"], fields["seconds"])
        case "step" | "metadata" | "peak_bytes":
            return getattr(answers, command)()
    raise AssertionError(command)


if __name__ == "__main__":
    sys.exit(main())
