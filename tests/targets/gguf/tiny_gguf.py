"""Tiny GGUF models with random weights, written with gguf-py alone, and what they compute as plain PyTorch in float64.

A test module that imports this is skipped where gguf or xllamacpp is not installed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

_INSTALL = "is not installed (pip install 'edgecc[gguf]')"
gguf = pytest.importorskip("gguf", reason=f"gguf {_INSTALL}")
pytest.importorskip("xllamacpp", reason=f"xllamacpp {_INSTALL}")

WIDTH, LAYERS, HEADS, KV_HEADS, HIDDEN, CONTEXT = 32, 2, 4, 2, 48, 96
HEAD = WIDTH // HEADS
EPS, THETA = 1e-5, 10000.0
PLAIN_WORDS = 61  # rows of an embedding without a tokenizer: not a power of two
SPECIAL = ("<|begin|>", "<|end|>")  # after the 256 bytes
BEGIN, END = 256, 257
WORD_PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "▁the", "▁cat", "▁sat", "s", "▁on", "▁mat")
Weights = Mapping[str, Tensor]
Change = Callable[[dict[str, np.ndarray]], None]


@dataclass(frozen=True)
class Tiny:
    """`forward(ids [n])` gives logits [n, vocab], of an encoder hidden states [n, width]."""

    path: Path
    vocabulary: int
    weights: Weights
    forward: Callable[[Tensor], Tensor]


def byte_symbols() -> list[str]:
    """The printable character that GPT-2's byte-level vocabulary has for each byte. Radford et al. 2019, its released encoder."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return [chr(b) if b in printable else chr(256 + others.index(b)) for b in range(256)]


def llama(
    path: Path,
    *,
    tokenizer: bool = False,
    context: int = CONTEXT,
    tensors_a_file: int = 0,
    seed: int = 0,
    change: Change | None = None,
    keys: Callable[[Any], None] | None = None,
) -> Tiny:
    """RMS norm, interleaved rotary embedding, grouped queries, SwiGLU, an output of its own.

    `change` edits the weights that are written, not those of `forward`; `keys` adds keys to the file. With `tensors_a_file`
    it is split, and `path` becomes the name of the first part.
    """
    words = 256 + len(SPECIAL) if tokenizer else PLAIN_WORDS
    draw = _drawer(seed)
    weights = {"token_embd.weight": draw(words, WIDTH), "output_norm.weight": 1 + draw(WIDTH), "output.weight": draw(words, WIDTH)}
    for i in range(LAYERS):
        sizes = {
            "attn_q": (WIDTH, WIDTH),
            "attn_k": (KV_HEADS * HEAD, WIDTH),
            "attn_v": (KV_HEADS * HEAD, WIDTH),
            "attn_output": (WIDTH, WIDTH),
        }
        sizes |= {"ffn_gate": (HIDDEN, WIDTH), "ffn_up": (HIDDEN, WIDTH), "ffn_down": (WIDTH, HIDDEN)}
        weights |= {f"blk.{i}.{name}.weight": draw(*size) for name, size in sizes.items()}
        weights |= {f"blk.{i}.{name}.weight": 1 + draw(WIDTH) for name in ("attn_norm", "ffn_norm")}
    writer = _writer(path, "llama", context, tensors_a_file)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(EPS)
    writer.add_rope_freq_base(THETA)
    _add_bytes(writer) if tokenizer else _add_none(writer, words)
    if keys:
        keys(writer)
    finished = _finish(writer, weights, _llama, change)
    first = min(path.parent.glob(f"{path.stem}-00001-of-*.gguf")) if tensors_a_file else path
    return Tiny(first, words, *finished)


def gpt2(path: Path, *, seed: int = 0) -> Tiny:
    """Layer norm, learned positions, a fused qkv projection, tanh GELU, biases everywhere, a tied output."""
    draw = _drawer(seed)
    weights = {"token_embd.weight": draw(PLAIN_WORDS, WIDTH), "position_embd.weight": draw(CONTEXT, WIDTH)}
    weights |= _norm("output_norm", draw)
    for i in range(LAYERS):
        for name in ("attn_norm", "ffn_norm"):
            weights |= _norm(f"blk.{i}.{name}", draw)
        for name, size in {
            "attn_qkv": (3 * WIDTH, WIDTH),
            "attn_output": (WIDTH, WIDTH),
            "ffn_up": (HIDDEN, WIDTH),
            "ffn_down": (WIDTH, HIDDEN),
        }.items():
            weights |= _linear(f"blk.{i}.{name}", size, draw)
    writer = _writer(path, "gpt2")
    writer.add_layer_norm_eps(EPS)
    _add_none(writer, PLAIN_WORDS)
    return Tiny(path, PLAIN_WORDS, *_finish(writer, weights, _gpt2))


def bert(path: Path, *, pooling: str = "mean", seed: int = 0) -> Tiny:
    """Layer norm after each sum, learned positions and types, attention to both sides, GELU."""
    words = len(WORD_PIECES)
    draw = _drawer(seed)
    weights = {"token_embd.weight": draw(words, WIDTH), "position_embd.weight": draw(CONTEXT, WIDTH), "token_types.weight": draw(2, WIDTH)}
    weights |= _norm("token_embd_norm", draw)
    for i in range(LAYERS):
        for name in ("attn_output_norm", "layer_output_norm"):
            weights |= _norm(f"blk.{i}.{name}", draw)
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            weights |= _linear(f"blk.{i}.{name}", (WIDTH, WIDTH), draw)
        weights |= _linear(f"blk.{i}.ffn_up", (HIDDEN, WIDTH), draw) | _linear(f"blk.{i}.ffn_down", (WIDTH, HIDDEN), draw)
    writer = _writer(path, "bert")
    writer.add_layer_norm_eps(EPS)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType[pooling.upper()])
    writer.add_token_type_count(2)
    writer.add_tokenizer_model("bert")
    writer.add_token_list(list(WORD_PIECES))
    writer.add_token_types([gguf.TokenType.CONTROL] * 4 + [gguf.TokenType.NORMAL] * (words - 4))
    writer.add_pad_token_id(0)
    writer.add_unk_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_sep_token_id(3)
    writer.add_eos_token_id(3)
    return Tiny(path, words, *_finish(writer, weights, _bert))


def greedy(tiny: Tiny, prompt: Sequence[int], count: int) -> list[int]:
    """The likeliest token after all before it, again and again, in PyTorch."""
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(tiny.forward(torch.tensor(ids))[-1].argmax()))
    return ids[len(prompt) :]


def _llama(w: Weights, ids: Tensor) -> Tensor:
    x = w["token_embd.weight"][ids]
    for i in range(LAYERS):
        b = f"blk.{i}."
        h = _rms(x, w[b + "attn_norm.weight"])
        q, k, v = (_heads(h @ w[f"{b}attn_{n}.weight"].T) for n in "qkv")
        q, k = _rotate(q), _rotate(k)
        k, v = (t.repeat_interleave(HEADS // KV_HEADS, 0) for t in (k, v))
        x = x + _attend(q, k, v, causal=True) @ w[b + "attn_output.weight"].T
        h = _rms(x, w[b + "ffn_norm.weight"])
        x = x + (F.silu(h @ w[b + "ffn_gate.weight"].T) * (h @ w[b + "ffn_up.weight"].T)) @ w[b + "ffn_down.weight"].T
    return _rms(x, w["output_norm.weight"]) @ w["output.weight"].T


def _gpt2(w: Weights, ids: Tensor) -> Tensor:
    x = w["token_embd.weight"][ids] + w["position_embd.weight"][: len(ids)]
    for i in range(LAYERS):
        b = f"blk.{i}."
        q, k, v = (_heads(t) for t in _apply(w, b + "attn_qkv", _layer_norm(w, b + "attn_norm", x)).chunk(3, -1))
        x = x + _apply(w, b + "attn_output", _attend(q, k, v, causal=True))
        h = F.gelu(_apply(w, b + "ffn_up", _layer_norm(w, b + "ffn_norm", x)), approximate="tanh")
        x = x + _apply(w, b + "ffn_down", h)
    return _layer_norm(w, "output_norm", x) @ w["token_embd.weight"].T


def _bert(w: Weights, ids: Tensor) -> Tensor:
    x = w["token_embd.weight"][ids] + w["position_embd.weight"][: len(ids)] + w["token_types.weight"][0]
    x = _layer_norm(w, "token_embd_norm", x)
    for i in range(LAYERS):
        b = f"blk.{i}."
        q, k, v = (_heads(_apply(w, f"{b}attn_{n}", x)) for n in "qkv")
        x = _layer_norm(w, b + "attn_output_norm", x + _apply(w, b + "attn_output", _attend(q, k, v, causal=False)))
        h = F.gelu(_apply(w, b + "ffn_up", x))
        x = _layer_norm(w, b + "layer_output_norm", x + _apply(w, b + "ffn_down", h))
    return x


def _rms(x: Tensor, weight: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS) * weight


def _layer_norm(w: Weights, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, (WIDTH,), w[name + ".weight"], w[name + ".bias"], EPS)


def _apply(w: Weights, name: str, x: Tensor) -> Tensor:
    return x @ w[name + ".weight"].T + w[name + ".bias"]


def _heads(x: Tensor) -> Tensor:
    """[n, heads * d] -> [heads, n, d]."""
    return x.unflatten(-1, (-1, HEAD)).transpose(0, 1)


def _rotate(x: Tensor) -> Tensor:
    """Turn each pair (2i, 2i + 1) by position / THETA^(2i / d). Su et al. 2021, section 3.4.2. x [heads, n, d]."""
    angle = torch.arange(x.shape[1])[:, None] / THETA ** (torch.arange(0, HEAD, 2, dtype=torch.float64) / HEAD)
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * angle.cos() - odd * angle.sin(), even * angle.sin() + odd * angle.cos()], -1).flatten(-2)


def _attend(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Tensor:
    """[heads, n, d] -> [n, heads * d]."""
    scores = q @ k.transpose(1, 2) / math.sqrt(HEAD)
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1).bool(), -math.inf)
    return (scores.softmax(-1) @ v).transpose(0, 1).flatten(1)


def _drawer(seed: int) -> Callable[..., np.ndarray]:
    generator = np.random.default_rng(seed)
    return lambda *shape: (0.3 * generator.standard_normal(shape)).astype(np.float32)


def _norm(name: str, draw: Callable[..., np.ndarray]) -> dict[str, np.ndarray]:
    return {name + ".weight": 1 + draw(WIDTH), name + ".bias": draw(WIDTH)}


def _linear(name: str, size: tuple[int, int], draw: Callable[..., np.ndarray]) -> dict[str, np.ndarray]:
    return {name + ".weight": draw(*size), name + ".bias": draw(size[0])}


def _writer(path: Path, architecture: str, context: int = CONTEXT, tensors_a_file: int = 0) -> Any:
    writer = gguf.GGUFWriter(path, architecture, split_max_tensors=tensors_a_file)
    writer.add_context_length(context)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    return writer


def _add_none(writer: Any, words: int) -> None:
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(words)


def _add_bytes(writer: Any) -> None:
    """A vocabulary of bytes, and one merge, which must be there and never applies."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*byte_symbols(), *SPECIAL])
    writer.add_token_types([gguf.TokenType.NORMAL] * 256 + [gguf.TokenType.CONTROL] * len(SPECIAL))
    writer.add_token_merges([f"{chr(0x100)} {chr(0x100)}"])
    writer.add_bos_token_id(BEGIN)
    writer.add_eos_token_id(END)
    writer.add_add_bos_token(True)


def _finish(
    writer: Any, weights: dict[str, np.ndarray], forward: Callable[[Weights, Tensor], Tensor], change: Change | None = None
) -> tuple[Weights, Callable[[Tensor], Tensor]]:
    written = dict(weights)
    if change:
        change(written)
    for name, array in written.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    exact = {name: torch.from_numpy(array).double() for name, array in weights.items()}
    return exact, lambda ids: forward(exact, ids)
