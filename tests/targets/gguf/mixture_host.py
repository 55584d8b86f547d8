"""GGUF files of many architectures that cost nothing: headers, and data that is a hole in the file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgecc.targets.gguf.mixture import Model

VOCABULARY = 512
_GATED = ("ffn_gate", "ffn_up", "ffn_down")
_LAYERS = {  # what a layer has: weights of the block, `+` with biases
    "llama": ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", *_GATED),
    "qwen2": ("attn_norm", "attn_q+", "attn_k+", "attn_v+", "attn_output", "ffn_norm", *_GATED),
    "qwen3": ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_q_norm", "attn_k_norm", "attn_output", "ffn_norm", *_GATED),
    "gpt2": ("attn_norm+", "attn_qkv+", "attn_output+", "ffn_norm+", "ffn_up+", "ffn_down+"),
    "mpt": ("attn_norm", "attn_qkv", "attn_output", "ffn_norm", "ffn_up", "ffn_down"),
    "starcoder2": ("attn_norm+", "attn_q+", "attn_k+", "attn_v+", "attn_output+", "ffn_norm+", "ffn_up+", "ffn_down+"),
    "gptneox": ("attn_norm+", "attn_qkv+", "attn_output+", "ffn_norm+", "ffn_up+", "ffn_down+"),
    "phi2": ("attn_norm+", "attn_qkv+", "attn_output+", "ffn_up+", "ffn_down+"),
    "bert": ("attn_q+", "attn_k+", "attn_v+", "attn_output+", "attn_output_norm+", "ffn_up+", "ffn_down+", "layer_output_norm+"),
    "nomic-bert": ("attn_qkv", "attn_output", "attn_output_norm+", *_GATED, "layer_output_norm+"),
}
_ONCE = {
    "gpt2": ("position_embd",),
    "bert": ("position_embd", "token_types", "token_embd_norm+"),
    "nomic-bert": ("token_types", "token_embd_norm+"),
}
ARCHITECTURES = tuple(_LAYERS)


@dataclass(frozen=True)
class Shape:
    """A model by its sizes. `tied`: the output matrix is the embedding; encoders have none."""

    architecture: str
    layers: int
    width: int = 256
    inner: int = 512
    heads: int = 4
    kv_heads: int = 4
    tied: bool = False
    experts: int = 0

    @property
    def model(self) -> Model:
        return Model(self.architecture, self.layers, self.heads, self.kv_heads, self.experts)


def tensors(shape: Shape) -> dict[str, tuple[int, ...]]:
    """GGUF names and shapes in torch order."""
    width, inner, shared = shape.width, shape.inner, shape.width // shape.heads * shape.kv_heads
    matrices: dict[str, tuple[int, ...]] = {
        "attn_q": (width, width),
        "attn_k": (shared, width),
        "attn_v": (shared, width),
        "attn_qkv": (width + 2 * shared, width),
        "attn_output": (width, width),
        "ffn_gate": (inner, width),
        "ffn_up": (inner, width),
        "ffn_down": (width, inner),
        "position_embd": (64, width),
        "token_types": (2, width),
    }
    made: dict[str, tuple[int, ...]] = {"token_embd.weight": (VOCABULARY, width)}

    def add(prefix: str, part: str) -> None:
        name = part.rstrip("+")
        rows_cols = matrices.get(name, (width,))
        if shape.experts and name in _GATED:
            made[f"{prefix}{name}_exps.weight"] = (shape.experts, *rows_cols)
        else:
            made[f"{prefix}{name}.weight"] = rows_cols
        if part.endswith("+"):
            made[f"{prefix}{name}.bias"] = rows_cols[:1]

    for part in _ONCE.get(shape.architecture, ()):
        add("", part)
    for layer in range(shape.layers):
        for part in _LAYERS[shape.architecture]:
            add(f"blk.{layer}.", part)
        if shape.experts:
            made[f"blk.{layer}.ffn_gate_inp.weight"] = (shape.experts, width)
    if "bert" not in shape.architecture:
        made["output_norm.weight"] = (width,)
        if not shape.tied:
            made["output.weight"] = (VOCABULARY, width)
    return made


def write_sparse(path: Path, shape: Shape) -> None:
    """An F32 model of zeros; gguf-py writes the header."""
    from gguf import GGMLQuantizationType, GGUFWriter

    writer = GGUFWriter(path, shape.architecture)
    writer.add_block_count(shape.layers)
    writer.add_context_length(64)
    writer.add_embedding_length(shape.width)
    writer.add_feed_forward_length(shape.inner)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_eps(1e-5)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_causal_attention("bert" not in shape.architecture)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_parallel_residual(True)
    writer.add_max_alibi_bias(8.0)
    if shape.experts:
        writer.add_expert_count(shape.experts)
        writer.add_expert_used_count(2)
    size = 0
    for name, dims in tensors(shape).items():
        count = 1
        for dim in dims:
            count *= dim
        writer.add_tensor_info(name, dims, None, 4 * count, GGMLQuantizationType.F32)  # type: ignore[arg-type]
        size += -(-4 * count // 32) * 32
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("r+b") as file:
        file.truncate(-(-file.seek(0, 2) // 32) * 32 + size)
