"""Tiny Hugging Face models with random weights, and what llama.cpp runs them as."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("transformers", reason="transformers is not installed (pip install 'edgecc[hf]')")

_SIZES = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "intermediate_size": 80,
    "vocab_size": 97,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GROUPED = {**_SIZES, "num_key_value_heads": 2}
_GPT2 = {
    "initializer_range": 0.2,
    "n_embd": 48,
    "n_layer": 2,
    "n_head": 6,
    "vocab_size": 97,
    "n_positions": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def _rope(kind: str, **options: float) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **options}}


#: Name: class, configuration, and the architecture that it is written as.
MODELS: dict[str, tuple[str, dict[str, Any], str]] = {
    "llama": ("LlamaForCausalLM", _GROUPED, "llama"),
    "llama tied": ("LlamaForCausalLM", {**_GROUPED, "tie_word_embeddings": True, **_rope("default")}, "llama"),
    "llama biased": ("LlamaForCausalLM", {**_GROUPED, "attention_bias": True, "mlp_bias": True}, "llama"),
    "llama 3": (
        "LlamaForCausalLM",
        {
            **_GROUPED,
            "num_attention_heads": 4,
            "head_dim": 12,
            **_rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16),
        },
        "llama",
    ),
    "llama linear": ("LlamaForCausalLM", {**_GROUPED, **_rope("linear", factor=4.0)}, "llama"),
    "llama yarn": ("LlamaForCausalLM", {**_GROUPED, **_rope("yarn", factor=4.0, original_max_position_embeddings=16)}, "llama"),
    "qwen2": ("Qwen2ForCausalLM", _GROUPED, "qwen2"),
    "qwen3": ("Qwen3ForCausalLM", {**_GROUPED, "head_dim": 12}, "qwen3"),
    "gemma": ("GemmaForCausalLM", {**_GROUPED, "head_dim": 12, "hidden_activation": "gelu_pytorch_tanh"}, "gemma"),
    "granite": (
        "GraniteForCausalLM",
        {**_GROUPED, "embedding_multiplier": 3.0, "residual_multiplier": 0.3, "attention_multiplier": 0.2, "logits_scaling": 4.0},
        "llama",
    ),
    "gpt2": ("GPT2LMHeadModel", _GPT2, "gpt2"),
    "gpt bigcode": ("GPTBigCodeForCausalLM", _GPT2, "gpt2"),
    "gpt neox": ("GPTNeoXForCausalLM", _SIZES, "gptneox"),
    "gpt neox in sequence": ("GPTNeoXForCausalLM", {**_SIZES, "use_parallel_residual": False}, "gptneox"),
    "phi": ("PhiForCausalLM", _SIZES, "phi2"),
    "falcon": ("FalconForCausalLM", {**_SIZES, "multi_query": True}, "phi2"),
    "phi3": ("Phi3ForCausalLM", _GROUPED, "llama"),
    "glm": ("GlmForCausalLM", {**_GROUPED, "head_dim": 8}, "llama"),
    "starcoder2": ("Starcoder2ForCausalLM", _GROUPED, "starcoder2"),
    "mistral": ("MistralForCausalLM", {**_GROUPED, "sliding_window": None}, "llama"),
    "olmo": ("OlmoForCausalLM", _GROUPED, "stablelm"),
    "stablelm": ("StableLmForCausalLM", {**_GROUPED, "partial_rotary_factor": 0.5}, "stablelm"),
    "bert": ("BertModel", _SIZES, "bert"),
    "distilbert": (
        "DistilBertModel",
        {"dim": 48, "n_layers": 2, "n_heads": 6, "hidden_dim": 80, "vocab_size": 97, "max_position_embeddings": 64},
        "bert",
    ),
}
#: Those that no architecture computes, and a word of the reason.
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "mistral with a window": ("MistralForCausalLM", {**_GROUPED, "sliding_window": 8}, "sliding window"),
    "olmo with clamps": ("OlmoForCausalLM", {**_GROUPED, "clip_qkv": 8.0}, "clamp"),
    "olmo2": ("Olmo2ForCausalLM", _GROUPED, "rms_norm is added to the stream"),
    "cohere": ("CohereForCausalLM", _GROUPED, "side by side"),
    "mixtral": ("MixtralForCausalLM", {**_GROUPED, "num_local_experts": 2}, "is added to the stream"),
    "nemotron": ("NemotronForCausalLM", _GROUPED, "want an activation"),
    "smollm3": ("SmolLM3ForCausalLM", {**_GROUPED, "num_hidden_layers": 4}, "no rotary positions"),
    "roberta": ("RobertaModel", _SIZES, "which tokens are given"),
    "opt": (
        "OPTForCausalLM",
        {"hidden_size": 48, "word_embed_proj_dim": 48, "ffn_dim": 80, "num_hidden_layers": 2, "num_attention_heads": 6, "vocab_size": 97},
        "relu",
    ),
}


class OfIds(torch.nn.Module):
    """A model of tokens, and of a mask where there is one: logits, or the last hidden state."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.inner = model
        self.options = {"use_cache": False} if hasattr(model.config, "use_cache") else {}

    def forward(self, ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        result = self.inner(input_ids=ids, **({} if mask is None else {"attention_mask": mask}), **self.options)
        found: torch.Tensor = result.logits if hasattr(result, "logits") else result.last_hidden_state
        return found


def build(name: str, config: dict[str, Any]) -> OfIds:
    """With random weights, vectors too, so that a norm or a bias that is left out shows."""
    import transformers

    torch.manual_seed(0)
    cls = getattr(transformers, name)
    made = cls.config_class(**config)
    made._attn_implementation = "sdpa"
    model = cls(made).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return OfIds(model).eval()
