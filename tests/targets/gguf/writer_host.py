"""A Llama of random weights in PyTorch, as keys and tensors of a GGUF file, and llama.cpp's logits of such a file."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from edgecc.targets.gguf.writer import Planned, Value

WIDTH, HEADS, SHARED, SIZE, VOCABULARY, BASE, EPS = 64, 4, 2, 16, 50, 10000.0, 1e-5
INNER = (96, 96)  # of each layer: written as a list, though this architecture takes only equal ones

KEYS: dict[str, Value] = {
    "general.architecture": "llama",
    "general.name": "tiny",
    "general.file_type": 0,
    "llama.context_length": 64,
    "llama.embedding_length": WIDTH,
    "llama.block_count": len(INNER),
    "llama.feed_forward_length": list(INNER),
    "llama.attention.head_count": HEADS,
    "llama.attention.head_count_kv": SHARED,
    "llama.attention.layer_norm_rms_epsilon": EPS,
    "llama.rope.dimension_count": SIZE,
    "llama.rope.freq_base": BASE,
    "llama.vocab_size": VOCABULARY,
    "tokenizer.ggml.model": "no_vocab",
}


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    """By GGUF name, in float32."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return (
            torch.randn(shape, generator=generator) / shape[-1] ** 0.5
            if len(shape) > 1
            else 1 + 0.1 * torch.randn(shape, generator=generator)
        )

    made = {"token_embd.weight": draw(VOCABULARY, WIDTH)}
    for layer, inner in enumerate(INNER):
        made |= {
            f"blk.{layer}.{name}.weight": draw(*shape)
            for name, shape in {
                "attn_norm": (WIDTH,),
                "attn_q": (HEADS * SIZE, WIDTH),
                "attn_k": (SHARED * SIZE, WIDTH),
                "attn_v": (SHARED * SIZE, WIDTH),
                "attn_output": (WIDTH, HEADS * SIZE),
                "ffn_norm": (WIDTH,),
                "ffn_gate": (inner, WIDTH),
                "ffn_up": (inner, WIDTH),
                "ffn_down": (WIDTH, inner),
            }.items()
        }
    return made | {"output_norm.weight": draw(WIDTH), "output.weight": draw(VOCABULARY, WIDTH)}


def planned(tensors: dict[str, torch.Tensor]) -> list[Planned]:
    return [Planned(name, tuple(tensor.shape), "f32") for name, tensor in tensors.items()]


def forward(w: dict[str, torch.Tensor], tokens: Sequence[int]) -> torch.Tensor:
    """Logits [tokens, vocabulary] in PyTorch; rotary positions turn neighbouring channels, as architecture `llama` does."""
    angles = torch.outer(torch.arange(len(tokens)).float(), BASE ** (-torch.arange(0, SIZE, 2) / SIZE))
    turn = torch.polar(torch.ones_like(angles), angles)

    def rotate(x: torch.Tensor) -> torch.Tensor:
        return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) * turn).flatten(-2)

    x = w["token_embd.weight"][list(tokens)]
    for layer in range(len(INNER)):
        p = {name: w[f"blk.{layer}.{name}.weight"] for name in ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm")}
        y = F.rms_norm(x, (WIDTH,), p["attn_norm"], EPS)
        q, k, v = (F.linear(y, p[name]).unflatten(-1, (-1, SIZE)).transpose(0, 1) for name in ("attn_q", "attn_k", "attn_v"))
        k, v = (t.repeat_interleave(HEADS // SHARED, 0) for t in (rotate(k), v))
        attended = F.scaled_dot_product_attention(rotate(q), k, v, is_causal=True).transpose(0, 1).flatten(1)
        x = x + F.linear(attended, p["attn_output"])
        y = F.rms_norm(x, (WIDTH,), p["ffn_norm"], EPS)
        gate, up, down = (w[f"blk.{layer}.{name}.weight"] for name in ("ffn_gate", "ffn_up", "ffn_down"))
        x = x + F.linear(F.silu(F.linear(y, gate)) * F.linear(y, up), down)
    return F.linear(F.rms_norm(x, (WIDTH,), w["output_norm.weight"], EPS), w["output.weight"])


def logits(file: Path, tokens: Sequence[int]) -> torch.Tensor:
    """Logits [tokens, vocabulary] in llama.cpp."""
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("llama.cpp (xllamacpp) is not installed")
    child = Path(__file__).with_name("llama_logits.py")
    command = [sys.executable, str(child), str(file), *map(str, tokens)]
    environment = os.environ | {"GGML_NO_BACKTRACE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return torch.from_numpy(np.frombuffer(done.stdout, np.float32).reshape(len(tokens), -1).copy())
