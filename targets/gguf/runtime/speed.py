"""Speed: how fast llama.cpp reads a prompt and writes tokens, with its own default settings. Only for the child process."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from edgecc.targets.gguf.runtime.model import CHUNK, TIMED, TIMED_ENCODER, Model, Tokens

_LEAST = 3  # repeats


def measure(model: Model, prompt: int, new: int, seconds: float) -> dict[str, Any]:
    """Tokens per second of every repeat, for about `seconds`, after one that warms up.

    `prompt` tokens are read at once; then `new` tokens are written one after another, which an encoder does not. Both are
    cut to what the model's context takes. The tokens are drawn at random: no speed depends on them.
    """
    prompt = max(1, min(prompt, model.longest - (new if model.decoder else 0)))
    new = max(0, min(new, model.longest - prompt)) if model.decoder else 0
    use = TIMED if model.decoder else TIMED_ENCODER
    tokens = np.random.default_rng(0).integers(0, model.vocabulary, prompt + new).astype(np.int32)
    found: dict[str, list[float]] = {"prompt": [], "new": []}
    spent = -1.0
    while spent < seconds or len(found["prompt"]) < _LEAST:
        context = model.context(prompt + new, use)
        start = time.perf_counter()
        _read(model, context, tokens[:prompt])
        middle = time.perf_counter()
        _write(model, context, tokens[prompt:], prompt)
        read, written = middle - start, time.perf_counter() - middle
        if spent < 0:
            spent = 0.0
            continue
        found["prompt"].append(prompt / read)
        found["new"] += [new / written] if new else []
        spent += read + written
    return {"prompt_tokens": prompt, "new_tokens": new, "prompt": found["prompt"], "decode": found["new"]}


def _read(model: Model, context: int, tokens: Tokens) -> None:
    step = CHUNK if model.decoder else len(tokens)
    for start in range(0, len(tokens), step):
        part = tokens[start : start + step]
        wanted = np.arange(start, start + len(part)) == len(tokens) - 1
        model.compute(context, part, start, wanted if model.decoder else np.ones(len(part)))


def _write(model: Model, context: int, tokens: Tokens, position: int) -> None:
    for i in range(len(tokens)):
        model.compute(context, tokens[i : i + 1], position + i, np.ones(1))
