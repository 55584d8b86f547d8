"""config.json beside a model: what it adds to the graph, and every way in which it contradicts it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from edgecc.errors import UsageError
from edgecc.ir import capture
from edgecc.pipeline import manager
from edgecc.pipeline.context import PassContext
from edgecc.pipeline.spec import parse
from edgecc.registry import Registry
from edgecc.targets.gguf.config import Config, check_config, read_config
from edgecc.targets.gguf.plan import make_plan
from edgecc.targets.gguf.recognition.description import LanguageModel
from edgecc.targets.gguf.recognition.model import read_model
from edgecc.targets.gguf.target import Gguf
from tests.targets.gguf.decoders import Spelling, decoder

#: What is true of the model of `recognised`, under the names of several families.
TRUE = {
    "num_hidden_layers": 2,
    "hidden_size": 48,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 80,
    "vocab_size": 97,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "max_position_embeddings": 512,
}


def traced(spelling: Spelling):
    """A program as it is where it is lowered."""
    program = capture.trace(decoder(spelling), (torch.arange(12)[None],), {})
    registry = Registry.create()
    manager.run(parse(Gguf().pipeline(), registry.passes), program, PassContext(), [])
    return program


@pytest.fixture(scope="module")
def recognised() -> LanguageModel:
    return read_model(traced(Spelling()))


def config(**values: Any) -> Config:
    return Config(Path("m/config.json"), values)


def test_what_is_true_is_no_contradiction(recognised):
    assert check_config(recognised, config(**TRUE)) == []
    other = {"n_layer": 2, "n_embd": 48, "n_head": 6, "n_inner": 80, "layer_norm_epsilon": 1e-6, "rotary_emb_base": 10000}
    assert check_config(recognised, config(**other)) == check_config(recognised, Config(None, {})) == []
    assert check_config(recognised, config(rope_parameters={"rope_type": "default", "rope_theta": 10000.0})) == []


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("num_hidden_layers", 1, "num_hidden_layers is 1, the graph has 2"),
        ("n_layers", 1, "n_layers is 1, the graph has 2"),
        ("hidden_size", 64, "hidden_size is 64, the graph has 48"),
        ("d_model", 32, "d_model is 32, the graph has 48"),
        ("num_attention_heads", 3, "num_attention_heads is 3, the graph has 6"),
        ("num_key_value_heads", 1, "num_key_value_heads is 1, the graph has 2"),
        ("intermediate_size", 64, "intermediate_size is 64, the graph has 80"),
        ("vocab_size", 96, "vocab_size is 96, the graph has 97"),
        ("vocab_size", 100, "vocab_size is 100, the graph has 97"),
        ("rms_norm_eps", 1e-5, "rms_norm_eps is 1e-05, the graph has 1e-06"),
        ("layer_norm_eps", 1e-5, "layer_norm_eps is 1e-05, the graph has 1e-06"),
        ("rope_theta", 500000.0, "rope_theta is 500000, the graph has 10000"),
        ("rope_parameters", {"rope_theta": 1e6, "rope_type": "default"}, "rope_theta is 1000000, the graph has 10000"),
    ],
)
def test_a_contradiction_is_named_with_both_numbers(recognised, key, value, line):
    with pytest.raises(UsageError) as caught:
        check_config(recognised, config(**{key: value}))
    assert caught.value.message == f"m/config.json contradicts the model: {line}"
    assert "belongs to the weights" in caught.value.hint


def test_all_contradictions_stand_in_one_message(recognised):
    with pytest.raises(UsageError) as caught:
        check_config(recognised, config(**{**TRUE, "vocab_size": 50, "hidden_size": 8}))
    assert "hidden_size is 8" in caught.value.message and "vocab_size is 50" in caught.value.message
    assert "num_hidden_layers" not in caught.value.message


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("num_hidden_layers", 4, "num_hidden_layers is 4, the graph has 2"),
        ("num_attention_heads", 8, "num_attention_heads is 8, the graph has 6"),
        ("num_key_value_heads", 4, "num_key_value_heads is 4, the graph has 2"),
        ("intermediate_size", 128, "intermediate_size is 128, the graph has 80"),
    ],
)
def test_less_than_it_says_is_a_note(recognised, key, value, line):
    assert check_config(recognised, config(**{**TRUE, key: value})) == [line]


@pytest.mark.parametrize(
    "values",
    [
        {"rms_norm_eps": 1e-5, "layer_norm_eps": 1e-6},  # one of them is of another part
        {"rope_theta": 5e5, "rope_scaling": {"type": "yarn", "factor": 4.0}},
        {"rope_theta": 5e5, "rope_parameters": {"rope_type": "llama3"}},
        {"rope_scaling": "linear", "rope_parameters": None},
        {"num_key_value_heads": [2, 2], "intermediate_size": "80", "vocab_size": True, "hidden_size": None},
    ],
)
def test_what_cannot_be_compared_is_not(recognised, values):
    assert check_config(recognised, config(**values)) == []


def test_a_base_below_a_linear_factor_is_compared():
    model = read_model(traced(Spelling(stretch=4.0)))
    scaled = {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}
    assert check_config(model, config(rope_theta=10000.0, **scaled)) == []
    with pytest.raises(UsageError, match="rope_theta is 20000, the graph has 10000"):
        check_config(model, config(rope_theta=20000.0, **scaled))


@pytest.mark.parametrize(
    ("values", "context"),
    [
        ({}, (0, "")),
        ({"max_position_embeddings": 512}, (512, "max_position_embeddings")),
        ({"n_positions": 1024}, (1024, "n_positions")),
        ({"max_position_embeddings": -1, "n_ctx": 256}, (256, "n_ctx")),
        ({"max_position_embeddings": True}, (0, "")),
        ({"max_position_embeddings": 512, "sliding_window": 128}, (128, "sliding_window")),
        ({"max_position_embeddings": 512, "sliding_window": 4096}, (512, "max_position_embeddings")),
        ({"sliding_window": 128}, (128, "sliding_window")),
        ({"max_position_embeddings": 512, "sliding_window": None}, (512, "max_position_embeddings")),
        ({"max_position_embeddings": 512, "sliding_window": 0}, (512, "max_position_embeddings")),
        ({"max_position_embeddings": 512, "sliding_window": 128, "use_sliding_window": False}, (512, "max_position_embeddings")),
    ],
)
def test_the_context_is_what_the_model_was_made_for_and_no_more_than_a_window(values, context):
    assert config(**values).context() == context


@pytest.mark.parametrize(
    ("modes", "pooling"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_cls_token": True}, "cls"),
        ({"pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode_max_tokens": True}, "none"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}, "none"),  # a vector of twice the width
        (None, "none"),
    ],
)
def test_pooling_is_that_of_sentence_transformers(tmp_path, modes, pooling):
    (tmp_path / "config.json").write_text("{}")
    if modes is not None:
        (tmp_path / "1_Pooling").mkdir()
        (tmp_path / "1_Pooling/config.json").write_text(json.dumps({"word_embedding_dimension": 384, **modes}))
    assert read_config(tmp_path).pooling == pooling


@pytest.mark.parametrize(("text", "message"), [("{", "cannot be read"), ("[]", "holds list, want an object"), ("\xff", "cannot be read")])
def test_a_damaged_file_is_named(tmp_path, text, message):
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match=rf"config\.json {message}"):
        read_config(tmp_path)


def test_no_folder_and_no_file_say_nothing(tmp_path):
    assert read_config(None) == read_config(tmp_path) == Config(None, {})


def test_the_plan_carries_the_notes_and_the_context(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({**TRUE, "num_hidden_layers": 3}))
    program = traced(Spelling())
    plan = make_plan(program, Gguf(tokenizer="none"), PassContext(directory=tmp_path))
    (note,) = plan.notes
    assert note == f"smaller than {tmp_path}/config.json says, as after pruning: num_hidden_layers is 3, the graph has 2"
    assert plan.keys["llama.context_length"] == 512 and plan.keys["llama.block_count"] == 2
    with pytest.raises(UsageError, match=r"up to 12 tokens, more than the model takes: --context says 8"):
        make_plan(program, Gguf(tokenizer="none", context=8), PassContext(directory=tmp_path))
    without = make_plan(program, Gguf(), PassContext())
    assert without.notes == ["the context length is 12, that of the inputs: --context N says what the model was trained for"]
