"""How far a GGUF file is from the original model, in llama.cpp and by the measures of language models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgecc import reference
from edgecc.errors import ContractError
from edgecc.pipeline.context import Sample
from edgecc.targets.gguf.runtime.llama_cpp import LlamaCpp
from edgecc.targets.gguf.runtime.metrics import EmbeddingDistance, LogitDistance, compare_embeddings, compare_logits, first_difference
from edgecc.targets.gguf.vocabulary import accept, check_vocabulary

Original = Callable[..., tuple[torch.Tensor, ...]]
Array = np.ndarray[Any, Any]
Pair = tuple[Sample, Array]  # inputs, and what PyTorch makes of them: [sequences, tokens, channels]
#: Tokens that are generated to compare, after a prompt of so many.
_GENERATED, _PROMPT = 8, 8
_FLOATS = frozenset({"f32", "f16"})


def assess(
    directory: Path,
    manifest: Mapping[str, Any],
    original: Original,
    text: Iterable[Sample] | None,
    tokenizer: Path | None,
) -> Mapping[str, Any]:
    """Measures for report.json: of a decoder on the references, and on `text`; of an encoder the cosine of its embeddings.

    Raises ContractError where llama.cpp generates other tokens from unquantized weights than PyTorch, and UnsupportedError where it
    splits text into other tokens than the tokenizer in the folder `tokenizer`.
    """
    facts = manifest["facts"]["gguf"]
    file = directory / str(manifest["deployable"])
    names = [spec["name"] for spec in manifest["inputs"]]
    ids, mask = names.index(facts["ids"]), names.index(facts["mask"]) if facts["mask"] else None
    forced = bool(manifest["target_options"]["pre_tokenizer"])
    notes = accept(check_vocabulary(file, tokenizer), tokenizer, refuses=not forced) if tokenizer is not None else ()
    cases = reference.read(directory / "reference")
    known = [(tuple(torch.from_numpy(inputs[n]) for n in names), _rows(outputs[facts["output"]])) for inputs, outputs in cases]
    windows = list(text or ())
    asked = ((sample, _rows(original(*sample)[0].detach().float().numpy())) for sample in windows)
    with LlamaCpp(file, threads=int(manifest["facts"]["threads"])) as llama:
        if facts["kind"] == "encoder":
            return {**_embeddings(llama, chain(known, asked), ids, mask).as_dict(), "tokenizer": list(notes)}
        random = _logits(llama, known, ids).as_dict()
        found: dict[str, Any] = {"random": {k: v for k, v in random.items() if "perplexity" not in k}, "tokenizer": list(notes)}
        if windows:
            found["text"] = _logits(llama, asked, ids).as_dict()
        if set(facts["formats"]) <= _FLOATS:
            sample = windows[0] if windows else known[0][0]
            found["generated"] = _generation(llama, original, sample, ids, found["random"]["max_error"])
        return found


def _logits(llama: LlamaCpp, pairs: Iterable[Pair], ids: int) -> LogitDistance:
    total = LogitDistance()
    for sample, wanted in pairs:
        for row, want in zip(np.atleast_2d(sample[ids].numpy()), wanted, strict=True):
            total += compare_logits(want, llama.logits(row), row)
    return total


def _embeddings(llama: LlamaCpp, pairs: Iterable[Pair], ids: int, mask: int | None) -> EmbeddingDistance:
    """Of the means of tokens over a sentence, without those that the mask hides, which stand at its end."""
    wanted, found = [], []
    for sample, outputs in pairs:
        tokens = np.atleast_2d(sample[ids].numpy())
        seen = np.ones_like(tokens) if mask is None else np.atleast_2d(sample[mask].numpy() != 0)
        for row, want, count in zip(tokens, outputs, seen.sum(-1), strict=True):
            wanted.append(want[:count].mean(0))
            found.append(llama.embeddings(row[:count]).mean(0))
    return compare_embeddings(np.stack(wanted), np.stack(found))


def _rows(output: Array) -> Array:
    """[sequences, tokens, channels] f32."""
    values = output.astype(np.float32, copy=False)
    return values if values.ndim == 3 else values[None]


def _generation(llama: LlamaCpp, original: Original, sample: Sample, ids: int, error: float) -> dict[str, Any]:
    """Continue the first tokens of a sample in both, always with the likeliest token. Where two are as likely as the logits are far
    apart, either is right, and what follows is not compared.
    """
    tokens = sample[ids].reshape(-1, sample[ids].shape[-1])
    prompt = min(_PROMPT, tokens.shape[-1] // 2)
    count = min(_GENERATED, tokens.shape[-1] - prompt)
    wanted, margins = _continued(original, sample, ids, prompt, count)
    found = [piece.token for piece in llama.generate(tokens[0, :prompt].tolist(), limit=count)]
    at = first_difference(wanted[: len(found)], found)
    if at is not None and margins[at] > 2 * error:
        raise ContractError(
            f"llama.cpp continues {tokens[0, :prompt].tolist()} with {found}, PyTorch with {wanted}: they part at token {at}, "
            f"where the likeliest token leads by {margins[at]:.3g}",
            hint="--verify off keeps the file for a bug report",
        )
    return {"tokens": len(found), "equal": at is None}


def _continued(original: Original, sample: Sample, ids: int, prompt: int, count: int) -> tuple[list[int], list[float]]:
    """PyTorch's greedy tokens, and by how much each leads. The tokens after those that are known change nothing before them."""
    known = sample[ids].clone()
    flat = known.view(-1, known.shape[-1])
    made, margins = [], []
    for position in range(prompt, prompt + count):
        given = tuple(known if i == ids else value for i, value in enumerate(sample))
        logits = _rows(original(*given)[0].detach().float().numpy())[0, position - 1]
        first, second = np.sort(logits)[-2:][::-1]
        made.append(int(logits.argmax()))
        margins.append(float(first - second))
        if position < flat.shape[-1]:
            flat[0, position] = made[-1]
    return made, margins
