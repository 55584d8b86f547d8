"""Hugging Face transformers with random weights and small configurations.

`transformers` is imported while building only. Each builder wraps the model in a module that returns plain tensors.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def _quiet() -> Any:
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


class Encoder(nn.Module):
    """Token ids and a mask of ones to the last hidden state [batch, seq, width]."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


class SentenceEncoder(nn.Module):
    """Mean of the last hidden state over the mask, of unit length: the way of sentence-transformers."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        hidden = self.model(input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)[0]
        mask = attention_mask.unsqueeze(-1).expand(hidden.size()).float()
        mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
        return nn.functional.normalize(mean, p=2, dim=1)


class Decoder(nn.Module):
    """Token ids [batch, seq] to logits [batch, seq, vocabulary] of a causal language model."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.model(input_ids=input_ids, use_cache=False).logits


class Listener(nn.Module):
    """Mel features [batch, bins, frames] to the last hidden state of an audio encoder."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, input_features: Tensor) -> Tensor:
        return self.model(input_features).last_hidden_state


def _bert_sizes(attention: str) -> dict[str, Any]:
    return {
        "vocab_size": 97,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "attn_implementation": attention,
    }


def bert(attention: str) -> nn.Module:
    transformers = _quiet()
    return Encoder(transformers.BertModel(transformers.BertConfig(**_bert_sizes(attention)), add_pooling_layer=False))


def sentence_bert() -> nn.Module:
    transformers = _quiet()
    return SentenceEncoder(transformers.BertModel(transformers.BertConfig(**_bert_sizes("sdpa")), add_pooling_layer=False))


def gpt2(attention: str) -> nn.Module:
    """GPT-2: Conv1D layers, NewGELU, tied head."""
    transformers = _quiet()
    config = transformers.GPT2Config(
        vocab_size=97,
        n_positions=64,
        n_embd=32,
        n_layer=2,
        n_head=4,
        use_cache=False,
        bos_token_id=1,
        eos_token_id=1,
        attn_implementation=attention,
    )
    return Decoder(transformers.GPT2LMHeadModel(config))


def _llama_sizes(tied: bool, attention: str) -> dict[str, Any]:
    return {
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "use_cache": False,
        "tie_word_embeddings": tied,
        "attn_implementation": attention,
    }


def llama(tied: bool, attention: str) -> nn.Module:
    """Llama with grouped queries, rotary positions and RMSNorm."""
    transformers = _quiet()
    return Decoder(transformers.LlamaForCausalLM(transformers.LlamaConfig(**_llama_sizes(tied, attention))))


def qwen2(attention: str) -> nn.Module:
    """Qwen2: Llama with biases on q, k and v."""
    transformers = _quiet()
    return Decoder(transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**_llama_sizes(True, attention))))


def t5_encoder() -> nn.Module:
    """T5 encoder: RMSNorm, relative position buckets, unscaled attention."""
    transformers = _quiet()
    config = transformers.T5Config(
        vocab_size=97, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, relative_attention_num_buckets=8, use_cache=False
    )
    return Encoder(transformers.T5EncoderModel(config))


def whisper_encoder(attention: str) -> nn.Module:
    """Whisper encoder: two 1-D convolutions, sinusoids, pre-norm attention without key bias."""
    transformers = _quiet()
    config = transformers.WhisperConfig(
        vocab_size=97,
        num_mel_bins=16,
        encoder_layers=2,
        encoder_attention_heads=4,
        decoder_layers=1,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        d_model=32,
        max_source_positions=24,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        attn_implementation=attention,
    )
    return Listener(transformers.WhisperModel(config).get_encoder())
