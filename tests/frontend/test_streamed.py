"""Hugging Face directories whose weights stay in their files: the same program and outputs, little memory, damage told at the door."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from edgecc.errors import UsageError
from edgecc.frontend.load import Loaded, load
from edgecc.ir import lazy
from edgecc.ir.program import Program
from edgecc.ir.text import to_text
from edgecc.pipeline import manager
from edgecc.pipeline.context import PassContext
from edgecc.pipeline.instruments import VerifyNumerics, VerifyStructure
from edgecc.pipeline.spec import parse
from edgecc.registry import Registry

transformers = pytest.importorskip("transformers", reason="transformers is not installed (pip install 'edgecc[llm]')")
safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed (pip install safetensors)")

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
TEXT = {**SIZES, "vocab_size": 50, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
LLAMA = {**TEXT, "num_key_value_heads": 1, "tie_word_embeddings": True}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 50, "n_positions": 64, "bos_token_id": 1, "eos_token_id": 2}
FAMILIES = {"LlamaForCausalLM": LLAMA, "GPT2LMHeadModel": GPT2, "BertModel": TEXT}
PIPELINE = """
normalize: decompose, canonicalize, eliminate-common-subexpressions |
fuse: fuse-layer-norm, fuse-rms-norm, fuse-gelu, fuse-silu, fuse-attention
"""


def _save(directory: Path, name: str, config: dict[str, Any], dtype: torch.dtype = torch.float32, shard: str = "1GB") -> Path:
    torch.manual_seed(0)
    cls = getattr(transformers, name)
    cls(cls.config_class(**config)).to(dtype).save_pretrained(directory, max_shard_size=shard)
    return directory


def _both(directory: Path) -> tuple[Loaded, Loaded]:
    """Loaded as ever, and lazily. Weights in memory get memory of their own: sums over the odd addresses that
    transformers maps files to differ in the last bit."""
    plain, streamed = load(str(directory)), load(str(directory), lazy=True)
    for name in plain.program.weights():
        stored = plain.program.stored(name)
        stored.data = stored.data.clone()
    return plain, streamed


def _assert_equal(plain: Loaded, streamed: Loaded) -> None:
    """The same text, and outputs that are equal bit for bit among both programs and both original models."""
    assert to_text(streamed.program) == to_text(plain.program)
    weights = streamed.program.weights()
    assert all(lazy.is_lazy(t) for n, t in weights.items() if "weight" in n)
    assert all(torch.equal(lazy.read(t), plain.program.weights()[n]) for n, t in weights.items())
    example = plain.program.examples
    want = plain.program(*example)
    for outputs in (streamed.program(*example), streamed.reference(*example), plain.reference(*example)):
        assert all(map(torch.equal, want, outputs))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=["f32", "f16", "bf16"])
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("shard", ["1GB", "8KB"])
def test_lazy_and_ordinary_loading_are_equal(tmp_path: Path, name: str, dtype: torch.dtype, shard: str) -> None:
    directory = _save(tmp_path / "model", name, FAMILIES[name], dtype, shard)
    assert (len(list(directory.glob("*.safetensors"))) > 1) == (shard == "8KB")
    _assert_equal(*_both(directory))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("LlamaForCausalLM", LLAMA | {"tie_word_embeddings": False}),
        ("BertForMaskedLM", TEXT),  # its bias is padded to the vocabulary on the way
        ("MixtralForCausalLM", LLAMA | {"num_local_experts": 4}),  # its experts are stacked on the way
        ("ResNetModel", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "num_labels": 2}),  # its buffers are stored
    ],
)
def test_what_transformers_does_to_weights_stays_lazy(tmp_path: Path, name: str, config: dict[str, Any]) -> None:
    _assert_equal(*_both(_save(tmp_path / "model", name, config, torch.float16)))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _save(tmp_path_factory.mktemp("streamed") / "llama", "LlamaForCausalLM", LLAMA, torch.float16, "8KB")


def _renamed(source: Path, target: Path, rename: Callable[[str], str]) -> Path:
    """The model in one file, with other names of its tensors."""
    target.mkdir()
    (target / "config.json").write_bytes((source / "config.json").read_bytes())
    tensors = {n: t for shard in source.glob("*.safetensors") for n, t in safetensors.load_file(shard).items()}
    safetensors.save_file({rename(n): t for n, t in tensors.items()}, target / "model.safetensors", {"format": "pt"})
    return target


@pytest.mark.slow
def test_names_without_the_prefix_of_the_base_model_are_understood(llama: Path, tmp_path: Path) -> None:
    renamed = _renamed(llama, tmp_path / "m", lambda n: n.removeprefix("model."))
    program, want = load(str(renamed), lazy=True).program, load(str(llama), lazy=True).program
    assert to_text(program) == to_text(want) and torch.equal(program(*want.examples)[0], want(*want.examples)[0])


@pytest.mark.slow
def test_old_names_of_norms_are_understood(tmp_path: Path) -> None:
    source = _save(tmp_path / "bert", "BertModel", TEXT)
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    renamed = _renamed(source, tmp_path / "m", lambda n: next((n.replace(k, v) for k, v in old.items() if k in n), n))
    _assert_equal(load(str(renamed)), load(str(renamed), lazy=True))


@pytest.mark.slow
def test_the_class_of_the_model_may_be_left_open(tmp_path: Path) -> None:
    directory = _save(tmp_path / "gpt2", "GPT2Model", GPT2)
    config = json.loads((directory / "config.json").read_text()) | {"architectures": None}
    (directory / "config.json").write_text(json.dumps(config))
    _assert_equal(*_both(directory))


@pytest.mark.slow
def test_a_tied_weight_is_one_tensor_also_where_the_file_has_it_twice(llama: Path, tmp_path: Path) -> None:
    twice = _renamed(llama, tmp_path / "m", str)
    tensors = safetensors.load_file(twice / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    safetensors.save_file(tensors, twice / "model.safetensors", {"format": "pt"})
    for directory in (llama, twice):
        names = list(load(str(directory), lazy=True).program.weights())
        assert len([n for n in names if "embed_tokens" in n or "lm_head" in n]) == 1


@pytest.mark.slow
def test_dynamic_sizes_trace_alike(llama: Path) -> None:
    inputs = ["input_ids:i64[batch=1..4,seq=2..32]", "attention_mask:i64[batch,seq]"]
    plain, streamed = (load(str(llama), inputs=inputs, lazy=on).program for on in (False, True))
    assert to_text(streamed) == to_text(plain)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_passes_rewrite_alike_and_keep_the_numbers(tmp_path: Path, name: str) -> None:
    plain, streamed = _both(_save(tmp_path / "model", name, FAMILIES[name], torch.float16, "8KB"))
    texts = [_rewritten(loaded.program) for loaded in (plain, streamed)]
    assert texts[0] == texts[1]
    assert [n for n, t in streamed.program.weights().items() if t.is_floating_point() and t.dim() == 2 and not lazy.is_lazy(t)] == []


def _rewritten(program: Program) -> str:
    pipeline, context = parse(PIPELINE, Registry.create().passes), PassContext([program.examples])
    steps = manager.run(pipeline, program, context, [VerifyStructure(), VerifyNumerics()])
    assert any(s.rewrites for s in steps)
    return to_text(program)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc, which only Linux has")
def test_a_large_model_needs_little_memory(tmp_path: Path) -> None:
    directory = tmp_path / "model"
    config = transformers.LlamaConfig(
        **{"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 12, "num_attention_heads": 16, "num_key_value_heads": 2},
        **{"vocab_size": 16000, "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": False, "dtype": torch.float16},
    )
    config.save_pretrained(directory)
    with torch.device("meta"):
        sizes = transformers.LlamaForCausalLM(config).state_dict()
    generator = torch.Generator().manual_seed(0)
    tensors = {n: (torch.randn(t.shape, generator=generator) / 50).half() for n, t in sizes.items()}
    safetensors.save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    stored = (directory / "model.safetensors").stat().st_size / 2**20
    assert stored > 300
    child = [sys.executable, "-m", "tests.frontend.streamed_child", str(directory), PIPELINE]
    done = subprocess.run(child, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    grown = json.loads(done.stdout.splitlines()[-1])
    # nothing is read for these: a graph of 500 nodes, its fake values, and what tracing imports; the weights are 330 MiB, 660 in float32
    assert grown["rewritten"] < 100, grown
    # one tensor of 63 MiB at a time, twice where the allocator keeps the last one
    assert grown["run"] < grown["rewritten"] + 130, grown


# -- what is not lazy, and what is not checked


def test_weights_of_torch_save_are_loaded_as_ever_with_a_note(tmp_path: Path) -> None:
    directory = _save(tmp_path / "bert", "BertModel", TEXT)
    tensors = safetensors.load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    torch.save(tensors, directory / "pytorch_model.bin")
    loaded = load(str(directory), lazy=True)
    assert not any(lazy.is_lazy(t) for t in loaded.program.weights().values())
    assert "weights are in memory" in loaded.notes[-1]
    assert not any("in memory" in note or "in their files" in note for note in load(str(directory)).notes)


def test_values_are_checked_where_they_are_read_not_at_the_door(llama: Path, tmp_path: Path) -> None:
    broken = _renamed(llama, tmp_path / "m", str)
    tensors = safetensors.load_file(broken / "model.safetensors")
    tensors["model.norm.weight"][3] = float("nan")
    safetensors.save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    weights = load(str(broken), lazy=True).program.weights()
    assert int(lazy.read(weights["model.norm.weight"]).isnan().sum()) == 1
    with pytest.raises(UsageError, match=r"NaN or infinite values: model.norm.weight \(1\)"):
        load(str(broken))


# -- damage


def _copy(source: Path, target: Path) -> Path:
    target.mkdir()
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def _shard(directory: Path) -> Path:
    return sorted(directory.glob("*.safetensors"))[0]


def _with_header(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    text = json.dumps(change(header) or header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


def _first(header: dict[str, Any]) -> dict[str, Any]:
    return next(v for k, v in header.items() if k != "__metadata__")  # type: ignore[no-any-return]


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def _lose_tensor(file: Path) -> None:
    tensors = safetensors.load_file(file)
    tensors.pop(next(iter(tensors)))
    safetensors.save_file(tensors, file)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut short": (_cut, r"model-00001-of-00002.safetensors is a damaged .* it has \d+ bytes, its header wants \d+"),
    "longer": (lambda f: f.write_bytes(f.read_bytes() + b"x"), r"it has \d+ bytes, its header wants \d+"),
    "not there": (Path.unlink, r"names files that are not there: model-00001-of-00002.safetensors"),
    "empty": (lambda f: f.write_bytes(b""), "its header would have 0 bytes, the file has 0"),
    "header too large": (lambda f: f.write_bytes((10**6).to_bytes(8, "little") + b"{}"), "would have 1000000 bytes, the file has 10"),
    "header no JSON": (lambda f: f.write_bytes((2).to_bytes(8, "little") + b"{a"), "its header is no JSON"),
    "header no UTF-8": (lambda f: f.write_bytes((2).to_bytes(8, "little") + b"\xff\xfe"), "its header is no JSON"),
    "header too deep": (lambda f: f.write_bytes((10**5).to_bytes(8, "little") + b"[" * 10**5), "its header is no JSON"),
    "header no object": (lambda f: f.write_bytes((2).to_bytes(8, "little") + b"[]"), "its header is no JSON object"),
    "tensor lost": (_lose_tensor, r"tensors are not in the files .* \(model-00001-of-00002.safetensors\)"),
    "no such type": (lambda f: _with_header(f, lambda h: _first(h).update(dtype="F6_E2M3")), "has the type 'F6_E2M3', which PyTorch"),
    "no shape": (lambda f: _with_header(f, lambda h: _first(h).pop("shape") and None), "does not describe"),
    "negative": (lambda f: _with_header(f, lambda h: _first(h).update(shape=[-1, 16])), "does not describe"),
    "another size": (lambda f: _with_header(f, lambda h: _first(h).update(shape=[3, 3])), r"\[3, 3\] takes 18 bytes"),
    "no entry": (lambda f: _with_header(f, lambda h: h.update(more=3)), "does not describe 'more'"),
    "twice the same bytes": (lambda f: _with_header(f, lambda h: h.update(more=_first(h))), r"begins at byte \d+, want \d+"),
}


@pytest.mark.parametrize(("damage", "said"), DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_shard_is_told_by_name(llama: Path, tmp_path: Path, damage: Callable[[Path], object], said: str) -> None:
    directory = _copy(llama, tmp_path / "m")
    damage(_shard(directory))
    with pytest.raises(UsageError, match=said):
        load(str(directory), lazy=True)


@pytest.mark.parametrize("name", ["../other.safetensors", "/etc/passwd", "sub/x.safetensors", "..", "", "C:\\x.safetensors", "..\\x"])
def test_a_shard_outside_of_the_directory_is_refused(llama: Path, tmp_path: Path, name: str) -> None:
    directory = _copy(llama, tmp_path / "m")
    (tmp_path / "other.safetensors").write_bytes(_shard(llama).read_bytes())
    index = json.loads((directory / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.norm.weight"] = name
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UsageError, match="which is no plain file name"):
        load(str(directory), lazy=True)


@pytest.mark.parametrize(
    ("text", "said"), [("{", "cannot be read"), ("[]", "no weight_map"), ('{"weight_map": {"a": 1}}', "no weight_map")]
)
def test_a_damaged_index_is_told(llama: Path, tmp_path: Path, text: str, said: str) -> None:
    directory = _copy(llama, tmp_path / "m")
    (directory / "model.safetensors.index.json").write_text(text)
    with pytest.raises(UsageError, match=said):
        load(str(directory), lazy=True)


def test_missing_weights_are_told(llama: Path, tmp_path: Path) -> None:
    directory = _renamed(llama, tmp_path / "m", lambda n: n.replace("model.norm", "model.other"))
    with pytest.raises(UsageError, match=r"missing: model.norm.weight"):
        load(str(directory), lazy=True)


def test_a_file_that_changes_or_goes_while_in_use_is_told(llama: Path, tmp_path: Path) -> None:
    directory = _copy(llama, tmp_path / "m")
    program = load(str(directory), lazy=True).program
    file = _shard(directory)
    os.utime(file, ns=(0, 0))
    with pytest.raises(UsageError, match=f"{file.name} was changed"):
        program(*program.examples)
    file.unlink()
    with pytest.raises(UsageError, match=f"{file.name} cannot be read"):
        program(*program.examples)
