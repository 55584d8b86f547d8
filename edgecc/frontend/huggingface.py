"""Load a Hugging Face model directory with transformers: local files only, no code from the directory, no full pickle."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from edgecc.errors import MissingToolError, RefusedError, UsageError
from edgecc.frontend.classify import Kind, classify
from edgecc.frontend.factory import Made
from edgecc.frontend.json_files import read_object
from edgecc.frontend.reason import reason
from edgecc.frontend.safetensors_files import has_weights, lazy_tensors, stored_tensors

_LENGTH = 128
_LAZY = "weights stay in their files until they are used"
_NOT_LAZY = "weights are in memory: only those in model.safetensors or its shards, and not quantized yet, can stay in their files"


def load_directory(path: Path, *, lazy: bool = False) -> tuple[Made, tuple[str, ...]]:
    """The model of a directory with `config.json` and weights, in float32, with example inputs of its modality.

    Attention is scaled_dot_product_attention where the model has it (it traces to one operator, dynamic sizes
    included), else its eager form. Caches are off. With `lazy`, weights stay in the safetensors files until they are
    used (`edgecc.ir.lazy`), where the directory has those and is not quantized already; a note says which it was.
    Raises RefusedError for a directory that brings its own Python code or pickled objects, MissingToolError without
    transformers, UsageError for what transformers cannot read.
    """
    config = _read_config(path)
    _refuse_code(path, config)
    _check_weights(path)
    try:
        import transformers
    except ImportError as error:
        raise MissingToolError(f"{path} is a Hugging Face model, which needs transformers", hint="pip install 'edgecc[llm]'") from error
    cls = _model_class(transformers, config, path)
    attention = "sdpa" if getattr(cls, "_supports_sdpa", False) else "eager"
    stays = lazy and has_weights(path) and "quantization_config" not in config
    weights = lazy_tensors(stored_tensors(path)) if stays else None
    with _quiet(transformers):
        try:
            loader, source = (cls, {"pretrained_model_name_or_path": path}) if weights is None else _empty(transformers, cls, path)
            model, info = loader.from_pretrained(
                **source,
                state_dict=weights,
                local_files_only=True,
                trust_remote_code=False,
                weights_only=True,
                attn_implementation=attention,
                dtype=torch.float32,
                output_loading_info=True,
            )
        except Exception as error:  # transformers raises whatever the configuration at hand leads to
            raise UsageError(f"transformers cannot load {path}: {reason(error)}") from error
    _require_complete(path, cls.__name__, info)
    model.config.use_cache = False
    stored = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    notes: tuple[str, ...] = (f"{cls.__name__} of transformers {transformers.__version__}, attention {attention}",)
    notes += (f"weights cast from {stored} to float32",) if stored != "float32" else ()
    if lazy:
        notes += (_LAZY if stays else _NOT_LAZY,)
    return Made(model.eval(), (), _example_inputs(model)), notes


def _read_config(path: Path) -> dict[str, Any]:
    config = read_object(path / "config.json")
    if "model_type" not in config:
        raise UsageError(f"{path}/config.json is no configuration of a transformers model: it has no model_type")
    return config


def _refuse_code(path: Path, config: dict[str, Any]) -> None:
    """Refuse a configuration, or one nested in it, that names Python code or kernels to fetch."""
    for key, value in config.items():
        if key == "auto_map":
            code = ", ".join(sorted({str(v) for v in value.values()})) if isinstance(value, dict) else str(value)
            raise RefusedError(
                f"{path} wants its own Python code to be run (auto_map: {code})",
                hint="import that code yourself in a factory, and give file.py:factory",
            )
        if "attn_implementation" in key and "/" in str(value):
            raise RefusedError(f"{path} wants the kernels {value!r} to be fetched and run", hint=f"remove {key} from config.json")
        if isinstance(value, dict):
            _refuse_code(path, value)


def _check_weights(path: Path) -> None:
    """Require safetensors, or files of torch.save that hold nothing but tensors."""
    if any(path.glob("*.safetensors")):
        return
    pickles = sorted(path.glob("*.bin"))
    if not pickles:
        raise UsageError(f"{path} holds a config.json but no weights (*.safetensors or *.bin)", hint="copy the weights too")
    for file in pickles:
        found = classify(file)
        if found.kind is not Kind.WEIGHTS:
            names = ", ".join(found.dangers) or found.kind.value
            raise RefusedError(f"{file} holds more than weights: {names}", hint="convert it to safetensors where you trust it")


def _model_class(transformers: Any, config: dict[str, Any], path: Path) -> Any:
    """The class that `architectures` names, else what AutoModel takes for the model type."""
    for name in config.get("architectures") or ():
        cls = getattr(transformers, str(name), None)
        if isinstance(cls, type) and issubclass(cls, transformers.PreTrainedModel):
            return cls
    known = transformers.models.auto.configuration_auto.CONFIG_MAPPING_NAMES
    if config["model_type"] not in known:
        raise UsageError(f"{path}: transformers {transformers.__version__} knows no model type {config['model_type']!r}")
    return transformers.AutoModel


def _empty(transformers: Any, cls: Any, path: Path) -> tuple[Any, dict[str, Any]]:
    """The class of the model itself, and what its `from_pretrained` takes for a model whose weights are given."""
    auto = cls is transformers.AutoModel
    config = (transformers.AutoConfig if auto else cls.config_class).from_pretrained(path, local_files_only=True, trust_remote_code=False)
    found = transformers.MODEL_MAPPING[type(config)] if auto else cls
    return found[0] if isinstance(found, tuple) else found, {"pretrained_model_name_or_path": None, "config": config}


def _require_complete(path: Path, name: str, info: dict[str, Any]) -> None:
    """Refuse weights that transformers had to make up: it fills missing tensors with random numbers."""
    missing, shaped = sorted(info.get("missing_keys") or ()), list(info.get("mismatched_keys") or ())
    if missing or shaped:
        problems = [f"  missing: {k}" for k in missing] + [f"  mis-shaped: {k}" for k in shaped]
        raise UsageError(f"the weights in {path} do not fit {name}:\n" + "\n".join(problems))


def _example_inputs(model: Any) -> dict[str, torch.Tensor]:
    """One example of the model's main input: text of 128 tokens with its mask, an image, or sound; `{}` where unknown."""
    config, main = model.config, model.main_input_name
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    ones = torch.ones(1, min(_LENGTH, getattr(text, "max_position_embeddings", None) or _LENGTH), dtype=torch.int64)
    decoder = {"decoder_input_ids": torch.ones(1, 8, dtype=torch.int64)} if getattr(config, "is_encoder_decoder", False) else {}
    if main == "input_ids":
        return {"input_ids": ones, "attention_mask": ones.clone(), **decoder}
    generator = torch.Generator().manual_seed(0)
    if main == "pixel_values":
        side = getattr(config, "image_size", None) or 224
        height, width = side if isinstance(side, (list, tuple)) else (side, side)
        return {"pixel_values": torch.randn(1, getattr(config, "num_channels", 3), height, width, generator=generator)}
    if main == "input_features" and hasattr(config, "num_mel_bins"):
        frames = 2 * getattr(config, "max_source_positions", 1500)
        return {"input_features": torch.randn(1, config.num_mel_bins, frames, generator=generator), **decoder}
    if main == "input_values":
        return {"input_values": torch.randn(1, 16000, generator=generator)}
    return {}


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """No progress bar, warning or log line while transformers loads; its settings are put back."""
    control = transformers.utils.logging
    bar, level = control.is_progress_bar_enabled(), control.get_verbosity()
    control.disable_progress_bar()
    control.set_verbosity(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        control.set_verbosity(level)
        if bar:
            control.enable_progress_bar()
