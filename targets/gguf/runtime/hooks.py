"""Hooks: what `edgecc run --prompt` and `edgecc bench` ask of a GGUF artifact."""

from __future__ import annotations

import statistics
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgecc.errors import UsageError
from edgecc.targeting.generation import GenerationRequest, Piece
from edgecc.targets.gguf.runtime.llama_cpp import LlamaCpp

_NOTE = "with llama.cpp's own settings: keys and values in F16, flash attention where it helps"


def generate(directory: Path, manifest: Mapping[str, Any], request: GenerationRequest) -> Generator[Piece, None, None]:
    """Continue a text, piece by piece. Raises UsageError for an encoder and for a text where the file has no tokenizer."""
    if manifest["facts"]["gguf"]["kind"] != "decoder":
        raise UsageError("the model is an encoder: it continues no text", hint="edgecc run DIR --input NAME=FILE.npy")
    threads = request.threads or int(manifest["facts"].get("threads", 1))
    with LlamaCpp(directory / manifest["deployable"], threads=threads) as llama:
        yield from llama.generate(request.prompt, limit=request.limit, sampling=request.sampling)


def speed(directory: Path, manifest: Mapping[str, Any], threads: int, seconds: float) -> dict[str, Any]:
    """Tokens per second of reading and of writing (None for an encoder), load time and memory: JSON values."""
    with LlamaCpp(directory / manifest["deployable"], threads=threads) as llama:
        found = llama.speed(seconds=seconds)
        return {
            "runtime": llama.runtime,
            "note": _NOTE,
            "prompt_tokens": found.prompt_tokens,
            "prompt_tokens_per_second": _quantiles(found.prompt),
            "new_tokens": found.new_tokens,
            "decode_tokens_per_second": _quantiles(found.decode),
            "load_ms": round(llama.facts.load_ms, 3),
            "peak_bytes": llama.peak_bytes(),
            "runs": len(found.prompt),
        }


def _quantiles(speeds: Sequence[float]) -> dict[str, float] | None:
    """The median, and the speed that nine runs of ten reach."""
    if not speeds:
        return None
    ordered = sorted(speeds)
    return {"p50": round(statistics.median(ordered), 3), "p90": round(ordered[len(ordered) // 10], 3)}
