"""The metadata of a GGUF file that describes the model: sizes, eps, rotary positions, and what is special to an architecture."""

from __future__ import annotations

from collections.abc import Sequence

from edgecc.targets.gguf.architectures.series import geometric, max_bias
from edgecc.targets.gguf.architectures.sizes import sizes_of
from edgecc.targets.gguf.architectures.table import Architecture
from edgecc.targets.gguf.recognition.description import LanguageModel, rows_of

Value = bool | int | float | str | list[int] | list[float] | list[str]


def keys_of(model: LanguageModel, architecture: Architecture, context: int) -> dict[str, Value]:
    """Keys and values. `context`: how many tokens the model was made for."""
    sizes = sizes_of(model, architecture)
    name = architecture.name
    first = next(layer for layer in model.layers if layer.attention is not None)
    attention = first.attention
    norm = first.after_attention if architecture.after else first.before_attention
    assert attention is not None and norm is not None
    keys: dict[str, Value] = {
        "general.architecture": name,
        f"{name}.block_count": len(model.layers),
        f"{name}.context_length": context,
        f"{name}.embedding_length": model.width,
        f"{name}.feed_forward_length": _one_or_all(sizes.network),
        f"{name}.attention.head_count": _one_or_all(sizes.heads),
        f"{name}.attention.head_count_kv": _one_or_all(sizes.kv_heads),
        f"{name}.attention.layer_norm_{'rms_' if architecture.norm == 'rms' else ''}epsilon": norm.eps,
    }
    if architecture.wide:
        keys |= {f"{name}.attention.key_length": sizes.width, f"{name}.attention.value_length": sizes.width}
    keys |= _rope(model, architecture, sizes.width)
    if architecture.direction == "full":
        keys[f"{name}.attention.causal"] = False
        types = model.embeddings.types
        keys["tokenizer.ggml.token_type_count"] = rows_of(types) if types is not None else 1
    if architecture.alibi:
        slopes = attention.mask.slopes
        keys[f"{name}.attention.max_alibi_bias"] = (max_bias(slopes, max(sizes.heads)) or 0.0) if slopes is not None else 0.0
    if architecture.parallel == "either":
        keys[f"{name}.use_parallel_residual"] = first.parallel
    return keys


def _rope(model: LanguageModel, architecture: Architecture, width: int) -> dict[str, Value]:
    if not architecture.rope:
        return {}
    name = architecture.name
    rope = model.attentions[0].rope
    whole = rope is not None and (rope.width == width or not architecture.rope_table)
    series = geometric(rope.frequencies) if rope is not None and whole else None
    turning = rope.width if rope is not None and whole else width
    keys: dict[str, Value] = {f"{name}.rope.dimension_count": turning, f"{name}.rope.freq_base": series[0] if series else 10000.0}
    if series and series[1] != 1.0:
        keys |= {f"{name}.rope.scaling.type": "linear", f"{name}.rope.scaling.factor": series[1]}
    return keys


def _one_or_all(numbers: Sequence[int]) -> int | list[int]:
    return numbers[0] if len(set(numbers)) == 1 else list(numbers)
