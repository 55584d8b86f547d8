"""config.json beside a model: what the graph does not say, and a check of what it does."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecc.errors import UsageError
from edgecc.targets.gguf.architectures.choose import geometric
from edgecc.targets.gguf.recognition.description import LanguageModel

_CONTEXT = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length")
#: Names that families of models have for one number.
_NAMES = {
    "layers": ("num_hidden_layers", "n_layer", "n_layers"),
    "width": ("hidden_size", "n_embd", "d_model"),
    "heads": ("num_attention_heads", "n_head", "n_heads"),
    "kv_heads": ("num_key_value_heads",),
    "network": ("intermediate_size", "n_inner"),
    "vocabulary": ("vocab_size",),
    "eps": ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"),
    "base": ("rope_theta", "rotary_emb_base"),
}
#: Of these, a model that was pruned has less than its configuration.
_PRUNED = ("layers", "heads", "kv_heads", "network")


@dataclass(frozen=True)
class Config:
    """`values`: config.json of `path`, {} where there is none. `pooling`: none, mean or cls, as sentence-transformers wrote it."""

    path: Path | None
    values: Mapping[str, Any]
    pooling: str = "none"

    def context(self) -> int:
        """How many tokens the model was made for, 0 where that is not known; no more than a sliding window, which a graph of fewer
        tokens does not show.
        """
        known = next((int(self.values[name]) for name in _CONTEXT if isinstance(self.values.get(name), int)), 0)
        window = self.values.get("sliding_window")
        used = isinstance(window, int) and self.values.get("use_sliding_window", True)
        return min(known or window, window) if used and isinstance(window, int) else known


def read_config(directory: Path | None) -> Config:
    """Raises UsageError for a file that is damaged."""
    path = directory / "config.json" if directory is not None else None
    if path is None or not path.is_file():
        return Config(None, {})
    return Config(path, _object(path), _pooling(path.parent))


def _object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise UsageError(f"{path} holds {type(found).__name__}, want an object")
    return found


def _pooling(directory: Path) -> str:
    path = directory / "1_Pooling" / "config.json"
    if not path.is_file():
        return "none"
    found = _object(path)
    modes = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_lasttoken": "last"}
    return next((pooling for key, pooling in modes.items() if found.get(key) is True), "none")


def check_config(model: LanguageModel, config: Config) -> list[str]:
    """What the model has less of than its configuration says, as after pruning. Raises UsageError for any other contradiction."""
    wrong: list[str] = []
    pruned: list[str] = []
    for name, key, stated, found in _compared(model, config.values):
        same = abs(stated - found) <= 1e-4 * abs(stated) if isinstance(found, float) else stated == found
        if same:
            continue
        line = f"{key} is {stated:g}, the graph has {found:g}"
        (pruned if name in _PRUNED and found < stated else wrong).append(line)
    if wrong:
        raise UsageError(
            f"{config.path} contradicts the model: {'; '.join(wrong)}", hint="give the configuration that belongs to the weights"
        )
    return pruned


def _compared(model: LanguageModel, values: Mapping[str, Any]) -> Iterator[tuple[str, str, float, float]]:
    attention = next(layer.attention for layer in model.layers if layer.attention is not None)
    networks = [layer.feed_forward for layer in model.layers if layer.feed_forward is not None]
    first = model.layers[0]
    norm = first.before_attention or first.after_attention
    rope = attention.rope
    series = geometric(rope.frequencies) if rope is not None and len(rope.frequencies) > 1 else None
    nested = values.get("rope_parameters") if isinstance(values.get("rope_parameters"), dict) else {}
    plain = (nested or values.get("rope_scaling") or {}).get("rope_type", "default") in ("default", "linear")
    found: dict[str, float | None] = {
        "layers": len(model.layers),
        "width": model.width,
        "heads": attention.heads,
        "kv_heads": attention.kv_heads,
        "network": networks[0].up.shape[0] if networks else None,
        "vocabulary": model.vocabulary,
        "eps": norm.eps if norm else None,
        "base": series[0] if series and plain else None,
    }
    stated = {**values, **({"rope_theta": nested["rope_theta"]} if nested and "rope_theta" in nested else {})}
    for name, number in found.items():
        key = next((k for k in _NAMES[name] if isinstance(stated.get(k), int | float)), None)
        if key is not None and number is not None:
            yield name, key, stated[key], number
