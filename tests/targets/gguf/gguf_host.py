"""Tiny Hugging Face directories, factories and files of GGUF artifacts for the tests of the whole target."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
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
        save_quietly(cls(cls.config_class(**config)), directory)
    return directory


def save_quietly(model: Any, directory: Path, **options: Any) -> Path:
    """Write a model of transformers without its progress bar, which is not what a test looks at."""
    import transformers

    control = transformers.utils.logging
    control.disable_progress_bar()
    try:
        model.save_pretrained(directory, **options)
    finally:
        control.enable_progress_bar()
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
    return decoder(DECODERS["fused"][0]), _ids(12)


def erf() -> Any:
    """A factory: a decoder whose activation is GELU by erf, which llama.cpp has none of."""
    return decoder(replace(DECODERS["gpt"][0], activation="gelu")), _ids(12)


def with_positions() -> Any:
    """A factory: a decoder with a table of 64 positions."""
    return decoder(DECODERS["gpt"][0]), _ids(12)


def image_model() -> Any:
    """A factory: no language model."""
    return torch.nn.Conv2d(3, 4, 3), (torch.ones(1, 3, 8, 8),)


def compiled(model: object, output: Path, *flags: object) -> Path:
    """Run `edgecc compile MODEL --target gguf -o OUTPUT` in this process."""
    from edgecc.__main__ import main

    words = ["compile", model, "--target", "gguf", "-o", output, "-q", "--progress", "none", *flags]
    assert main([str(word) for word in words]) == 0
    return output


def report_of(directory: Path) -> Any:
    return json.loads((directory / "report.json").read_text())


def tokens(length: object, batch: int = 1) -> list[str]:
    """Flags for ids and a mask of a length; `seq=2..8` is dynamic."""
    name = str(length).partition("=")[0]
    return ["--input", f"input_ids:i64[{batch},{length}]", "--input", f"attention_mask:i64[{batch},{name}]"]


def stored(*files: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Format, shape in torch order and bytes of each tensor, read by the gguf package."""
    import gguf

    found = {}
    for file in files:
        for tensor in gguf.GGUFReader(file).tensors:
            shape = tuple(int(n) for n in tensor.shape[::-1])
            found[tensor.name] = tensor.tensor_type.name.lower(), shape, tensor.data.tobytes()
    return found


def squared_relu() -> Any:
    """A factory: a decoder with an activation that llama.cpp has for no such model."""
    return decoder(replace(DECODERS["rope_gelu"][0], activation="relu")), _ids(12)


def single_token() -> Any:
    """A factory: a decoder whose example is one token."""
    return decoder(DECODERS["fused"][0]), _ids(1)


def slow_to_round() -> Any:
    """A factory: a decoder that takes some seconds to round."""
    sizes = {"width": 512, "heads": (8,) * 4, "kv_heads": (8,) * 4, "head": 64, "ffn": (1536,) * 4}
    return decoder(replace(DECODERS["fused"][0], **sizes)), _ids(12)  # type: ignore[arg-type]


def windowed() -> Any:
    """A factory: each token sees the four before it."""

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
        ones = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool)
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=ones.tril() & ones.triu(-4), scale=scale)

    made = decoder(replace(DECODERS["mask"][0], kv_heads=(6, 6)))
    for step in made.t:
        step.m._attend = attend  # type: ignore[union-attr,assignment]
    return made, _ids(12)


def _ids(length: int) -> tuple[torch.Tensor]:
    return (torch.randint(0, 97, (1, length), generator=torch.Generator().manual_seed(1)),)


class _Start(torch.nn.Module):
    """A decoder whose stream begins in another way: rows of tokens times `scale`, plus a parameter for each position."""

    def __init__(self, scale: float, positions: int) -> None:
        super().__init__()
        self.inner, self.scale = (
            decoder(replace(DECODERS["fused"][0], width=64, heads=(8, 8), kv_heads=(2, 2), ffn=(96, 96), rope="")),
            scale,
        )
        self.at = torch.nn.Parameter(torch.randn(1, positions, 64)) if positions else None
        if positions:
            self.inner = decoder(replace(DECODERS["gpt"][0], width=64, heads=(8, 8), kv_heads=(8, 8), ffn=(96, 96), positions=0))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.inner.p(ids) * self.scale
        x = x if self.at is None else x + self.at[:, : ids.shape[1]]
        for step in self.inner.t:
            x = step(x)
        out: torch.Tensor = self.inner.z(self.inner.y(x))
        return out


def scaled_embeddings() -> Any:
    """A factory: the rows of tokens are multiplied by 8, and the head's are not."""
    return _Start(8.0, 0).eval(), _ids(12)


def position_parameter() -> Any:
    """A factory: positions are a parameter [1, 64, width], not a table."""
    return _Start(1.0, 64).eval(), _ids(12)
