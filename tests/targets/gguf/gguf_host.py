"""Tiny Hugging Face directories, factories and files of GGUF artifacts for the tests of the whole target."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.targets.gguf.decoders import DECODERS, decoder
from tests.targets.gguf.vocabulary_host import pre_tokenizers as pre_tokenizers_by_name
from tests.targets.gguf.vocabulary_host import save, train_bytes

HERE = str(Path(__file__).resolve())
TEXT = [f"def f{i}(x, y={i}):\n    return x + {i} * y  # the {i}th of many\n" for i in range(40)]
_TOKENS = 320
#: Sizes of the tiny models. Their width is no multiple of 256, so that k-quants fall back.
LLAMA = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": _TOKENS,
    "max_position_embeddings": 32,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "tie_word_embeddings": False,
    "initializer_range": 0.2,
}
BERT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 120,
    "max_position_embeddings": 32,
    "initializer_range": 0.3,
}


def tiny_llama(directory: Path, **config: Any) -> Path:
    """A LlamaForCausalLM with random weights and a byte-level tokenizer of its own."""
    return _tokenized(_model(directory, "LlamaForCausalLM", {**LLAMA, **config}))


def tiny_bert(directory: Path, **config: Any) -> Path:
    """A BertModel with random weights and a WordPiece vocabulary of letters."""
    _model(directory, "BertModel", {**BERT, **config})
    letters = [chr(c) for c in range(97, 123)]
    (directory / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{x}" for x in letters)]))
    return directory


def _model(directory: Path, name: str, config: dict[str, Any]) -> Path:
    import transformers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        cls = getattr(transformers, name)
        cls(cls.config_class(**config)).save_pretrained(directory)
    return directory


def _tokenized(directory: Path) -> Path:
    return save(directory, train_bytes(pre_tokenizers_by_name()["gpt-2"], TEXT, size=_TOKENS))


def edited(source: Path, target: Path, **changes: Any) -> Path:
    """A copy of a directory whose config.json has other values; None removes one."""
    shutil.copytree(source, target)
    config = {**json.loads((target / "config.json").read_text()), **changes}
    (target / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    return target


def with_weights(source: Path, target: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    """A copy of a directory whose weights `change` was called with."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, target)
    weights = load_file(target / "model.safetensors")
    change(weights)
    save_file(weights, target / "model.safetensors", {"format": "pt"})
    return target


def hand_written() -> Any:
    """A factory: a decoder whose names say nothing, with fused queries, keys and values."""
    return decoder(DECODERS["fused"][0]), (torch.randint(0, 97, (1, 12), generator=torch.Generator().manual_seed(1)),)


def erf() -> Any:
    """A factory: a decoder whose activation is GELU by erf, which llama.cpp has none of."""
    from dataclasses import replace

    made = decoder(replace(DECODERS["gpt"][0], activation="gelu"))
    return made, (torch.randint(0, 97, (1, 12), generator=torch.Generator().manual_seed(1)),)


def image_model() -> Any:
    """A factory: no language model."""
    return torch.nn.Conv2d(3, 4, 3), (torch.ones(1, 3, 8, 8),)
