"""What the commands say of the gguf target: before anything is written, of what was written, and what the flags change."""

# ruff: noqa: F811  a test takes a fixture by the name that it was imported under
from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.cli.conftest import edgecc, folder  # noqa: F401  fixtures
from tests.targets.gguf.gguf_host import HERE, compiled, report_of, stored, tiny_llama, tokens, with_weights

pytestmark = pytest.mark.slow  # most tests trace a model of transformers
for package in ("gguf", "xllamacpp", "transformers"):
    pytest.importorskip(package)

FLAGS = ["--target", "gguf", "-o", "out", "--progress", "none"]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("hf") / "llama")


@pytest.fixture(scope="module")
def artifact(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory of f32. Tests do not change it."""
    return compiled(llama, tmp_path_factory.mktemp("artifact") / "out", "--quant", "f32", *tokens("seq=2..32"))


def test_a_dry_run_says_what_would_be_written(llama, edgecc, folder):
    flags = ["--quant", "q4_k_m", "--tensor-type", "attn_v=q8_0", *tokens(8)]
    result = edgecc("compile", llama, *FLAGS, *flags, "--dry-run", "--json")
    assert result.code == 0, result.err
    assert folder() == []
    facts = result.document["facts"]["gguf"]
    rows = {row["name"]: row for row in facts["tensors"]}
    written = stored(compiled(llama, Path("whole"), *flags) / "model.gguf")
    assert {name: (row["format"], tuple(row["shape"]), row["bytes"]) for name, row in rows.items()} == {
        name: (format_, shape, len(data)) for name, (format_, shape, data) in written.items()
    }
    assert rows["blk.0.attn_v.weight"]["reason"] == "--tensor-type attn_v=q8_0"
    assert {k: v for k, v in facts.items() if k != "tensors"}.items() <= report_of(Path("whole"))["facts"]["gguf"].items()
    shown = edgecc("compile", llama, *FLAGS, *flags, "--dry-run")
    assert "blk.0.attn_v.weight" in shown.out and "dry run" in shown.out and f"{facts['bits_per_weight']:.3f} bits a weight" in shown.out


def test_a_dry_run_reads_no_weight(llama, edgecc, tmp_path):
    """A number that is none is found where it is read, and not before."""

    def spoil(weights: dict[str, torch.Tensor]) -> None:
        weights["model.layers.1.mlp.down_proj.weight"][0, 0] = torch.nan

    with_weights(llama, tmp_path / "m", spoil)
    assert edgecc("compile", "m", *FLAGS, *tokens(8), "--dry-run").code == 0


def test_formats_by_name_are_in_the_file(llama, edgecc, tmp_path):
    flags = ["--quant", "q8_0", "--tensor-type", r"ffn_(up|gate)=q4_0", "--tensor-type", "^output=f16", *tokens(8)]
    tensors = stored(compiled(llama, tmp_path / "out", *flags) / "model.gguf")
    for name, (format_, _, _) in tensors.items():
        wanted = (
            "q4_0" if "ffn_up" in name or "ffn_gate" in name else "f32" if "norm" in name else "f16" if name == "output.weight" else "q8_0"
        )
        assert format_ == wanted, name
    recipe = (tmp_path / "out/recipe.toml").read_text()
    assert "tensor_types" in recipe
    assert edgecc("compile", "--recipe", "out/recipe.toml", "-o", "again", "-q").code == 0
    assert (tmp_path / "again/model.gguf").read_bytes() == (tmp_path / "out/model.gguf").read_bytes()


def test_a_width_that_no_block_divides_is_told_tensor_by_tensor(edgecc, tmp_path):
    result = edgecc("compile", f"{HERE}:hand_written", *FLAGS, "--quant", "q4_0")
    assert result.code == 0, result.err
    facts = report_of(tmp_path / "out")["facts"]["gguf"]
    narrow = [name for name, (_, shape, _) in stored(tmp_path / "out/model.gguf").items() if len(shape) > 1 and shape[-1] % 32]
    assert sorted(f["tensor"] for f in facts["fallbacks"]) == sorted(narrow) != []
    assert "fallback  f16 instead of q4_0, 48 columns are no multiple of 32: " in result.out
    remarks = (tmp_path / "out/remarks.jsonl").read_text()
    assert all(f"{name} is f16 instead of" in remarks for name in narrow)


def test_what_is_said_of_a_file(artifact, edgecc):
    shown = edgecc("inspect", artifact)
    assert shown.code == 0 and "gguf (mixture=f32" in shown.out and "model.gguf" in shown.out
    timed = edgecc("bench", artifact, "--seconds", "0.1", "--json")
    assert timed.code == 0, timed.err
    assert "prompt" in edgecc("bench", artifact, "--seconds", "0.1").out


def test_outputs_of_any_length_are_those_of_pytorch(llama, artifact, edgecc, tmp_path):
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32).eval()
    for length in (2, 5, 32):
        ids = torch.randint(0, 320, (1, length), generator=torch.Generator().manual_seed(length))
        np.save(tmp_path / "ids.npy", ids.numpy())
        np.save(tmp_path / "mask.npy", np.ones((1, length), np.int64))
        given = ["--input", "input_ids=ids.npy", "--input", "attention_mask=mask.npy", "-o", "found.npz", "--overwrite"]
        assert edgecc("run", artifact, *given).code == 0
        with torch.no_grad():
            wanted = model(ids).logits.numpy()
        np.testing.assert_allclose(np.load("found.npz")["logits"], wanted, atol=1e-4)  # logits of up to 10 in float32


def test_verify_takes_further_cases(artifact, edgecc, tmp_path):
    with np.load(artifact / "reference/case-00.npz") as case:
        arrays = dict(case)
    np.savez(tmp_path / "case.npz", **arrays)
    assert edgecc("verify", artifact, "--data", "case.npz").code == 0
    arrays["output/logits"] = arrays["output/logits"] * 1.01
    np.savez(tmp_path / "case.npz", **arrays)
    result = edgecc("verify", artifact, "--data", "case.npz", "--json")
    assert result.code == 1 and "the outputs differ by" in result.document["problems"][0]


def test_text_is_measured_and_said(llama, edgecc, tmp_path):
    (tmp_path / "text.txt").write_text("def f(x):\n    return x\n" * 20)
    result = edgecc("compile", llama, *FLAGS, "--quant", "q8_0", "--eval", "text.txt", *tokens(16))
    assert result.code == 0, result.err
    found = report_of(tmp_path / "out")["verify"]["language_model"]["text"]
    assert found["positions"] % 16 == 0 and found["positions"] and math.isfinite(found["perplexity"])
    (line,) = [line for line in result.out.splitlines() if line.startswith("text ")]
    assert f"perplexity {found['perplexity']:.4f} ({found['reference_perplexity']:.4f} in PyTorch)" in line


def test_a_file_that_is_not_verified_says_so(edgecc, tmp_path):
    result = edgecc("compile", f"{HERE}:hand_written", *FLAGS, "--verify", "off")
    assert result.code == 0 and "not verified" in result.out
    assert report_of(tmp_path / "out")["verify"] is None
    assert edgecc("verify", "out").code == 0  # by the outputs that were stored


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("image_model", "this is no language model"),
        ("erf", "gpt2 has gelu_tanh: --allow-approximate takes it so"),
        ("hand_written", None),
    ],
)
def test_inspect_says_whether_llama_cpp_has_the_model(edgecc, model, reason):
    result = edgecc("inspect", f"{HERE}:{model}", "--json")
    (found,) = [t for t in result.document["targets"] if t["name"] == "gguf"]
    assert found["supported"] is (reason is None)
    assert [reason in r["reason"] and bool(r["sources"]) for r in found["refused"]] == [True] * (reason is not None)
