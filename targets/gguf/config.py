"""config.json beside a model: what the graph does not say, and a check of what it does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecc.errors import UsageError
from edgecc.frontend.json_files import read_object
from edgecc.targets.gguf.architectures.series import geometric
from edgecc.targets.gguf.recognition.description import Attention, LanguageModel

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

    def context(self) -> tuple[int, str]:
        """How many tokens the model was made for and the key that says so, 0 where none does; no more than a sliding window, which a
        graph of fewer tokens does not show.
        """
        names = [*_CONTEXT, *(["sliding_window"] if self.values.get("use_sliding_window", True) else [])]
        found = {name: self.values[name] for name in names if _is_count(self.values.get(name))}
        window = found.pop("sliding_window", 0)
        known, key = next(((int(value), name) for name, value in found.items()), (0, ""))
        return (window, "sliding_window") if window and (not known or window < known) else (known, key)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def read_config(directory: Path | None) -> Config:
    """Raises UsageError for a file that is damaged."""
    path = directory / "config.json" if directory is not None else None
    if path is None or not path.is_file():
        return Config(None, {})
    return Config(path, read_object(path), _pooling(path.parent))


def _pooling(directory: Path) -> str:
    path = directory / "1_Pooling" / "config.json"
    if not path.is_file():
        return "none"
    found = read_object(path)
    modes = [key for key, value in found.items() if key.startswith("pooling_mode_") and value is True]
    known = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_lasttoken": "last"}
    return known.get(modes[0], "none") if len(modes) == 1 else "none"  # several are put side by side


def check_config(model: LanguageModel, config: Config) -> list[str]:
    """What the model has less of than its configuration says, as after pruning. Raises UsageError for any other contradiction."""
    wrong: list[str] = []
    pruned: list[str] = []
    for name, stated, found in _compared(model, config.values):
        if any(_same(value, found) for value in stated.values()):
            continue
        key, value = next(iter(stated.items()))
        line = f"{key} is {value:.9g}, the graph has {found:.9g}"
        (pruned if name in _PRUNED and found < value else wrong).append(line)
    if wrong:
        raise UsageError(
            f"{config.path} contradicts the model: {'; '.join(wrong)}", hint="give the configuration that belongs to the weights"
        )
    return pruned


def _same(stated: float, found: float) -> bool:
    return abs(stated - found) <= 1e-4 * abs(stated) if isinstance(found, float) else stated == found


def _compared(model: LanguageModel, values: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, float], float]]:
    """What is compared, the keys that state it with their numbers, and what the graph has. One of several keys may be of another part
    of the model, as an epsilon is.
    """
    attention = model.attentions[0]
    networks = [layer.feed_forward for layer in model.layers if layer.feed_forward is not None]
    first = model.layers[0]
    norm = first.before_attention or first.after_attention
    found: dict[str, float | None] = {
        "layers": len(model.layers),
        "width": model.width,
        "heads": attention.heads,
        "kv_heads": attention.kv_heads,
        "network": networks[0].up.shape[0] if networks else None,
        "vocabulary": model.vocabulary,
        "eps": norm.eps if norm else None,
        "base": _base(attention, values),
    }
    nested = _object_at(values, "rope_parameters")
    given = {**values, **{key: nested[key] for key in _NAMES["base"] if key in nested}}
    for name, number in found.items():
        stated = {k: given[k] for k in _NAMES[name] if isinstance(given.get(k), int | float) and not isinstance(given[k], bool)}
        if stated and number is not None:
            yield name, stated, number


def _base(attention: Attention, values: Mapping[str, Any]) -> float | None:
    """Of the rotary frequencies, None where they are none of a base alone, or the configuration scales them."""
    rope = attention.rope
    scaling = {**_object_at(values, "rope_scaling"), **_object_at(values, "rope_parameters")}
    if rope is None or len(rope.frequencies) < 2 or scaling.get("rope_type", scaling.get("type", "default")) not in ("default", "linear"):
        return None
    series = geometric(rope.frequencies)
    return series[0] if series else None


def _object_at(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = values.get(key)
    return found if isinstance(found, dict) else {}
