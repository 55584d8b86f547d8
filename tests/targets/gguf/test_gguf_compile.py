"""Models compiled for gguf: what llama.cpp computes from the file is what PyTorch computes, and what the report says is so."""

# ruff: noqa: F811  a test takes a fixture by the name that it was imported under
from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

import edgecc as api
from edgecc.errors import ContractError
from edgecc.ir.signature import Dim
from edgecc.targets.gguf.target import Gguf
from tests import ROOT
from tests.cli.conftest import edgecc  # noqa: F401  a fixture
from tests.targets.gguf.damaged_target import DamagedGguf
from tests.targets.gguf.decoders import DECODERS, decoder
from tests.targets.gguf.gguf_host import HERE, compiled, hand_written, report_of, stored, tiny_bert, tiny_llama, tokens
from tests.targets.gguf.vocabulary_host import HELDOUT, minilm, pyllama, sentences

pytestmark = pytest.mark.slow  # every test compiles a model and starts llama.cpp
for package in ("gguf", "xllamacpp", "transformers"):
    pytest.importorskip(package)

#: (largest difference of logits, divergence in nats of a token, least agreement on the likeliest token, factor of perplexity).
#: f32: rounding of sums. f16: weights and activations keep 11 bits. Measured: q8_0 3e-4 nats and 98.6 %, q4_k_m 1.3e-2 and 92 %.
BOUNDS = {
    "f32": (5e-5, 1e-9, 0.999, 1 + 1e-5),
    "f16": (0.05, 5e-6, 0.99, 1.001),
    "q8_0": (1.0, 1e-3, 0.97, 1.005),
    "q4_k_m": (5.0, 3e-2, 0.88, 1.03),
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("hf") / "llama")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """pyllama in several mixtures, assessed on text that it was not trained on."""
    source, folder = pyllama(), tmp_path_factory.mktemp("trained")
    (folder / "held.txt").write_text(HELDOUT.read_text(encoding="utf-8")[:4000])
    return {q: compiled(source, folder / q, "--quant", q, "--eval", folder / "held.txt", *tokens(64)) for q in BOUNDS}


@pytest.mark.parametrize("quant", BOUNDS)
def test_a_trained_model_is_as_near_to_pytorch_as_its_formats_allow(trained, quant):
    report = report_of(trained[quant])
    found, (error, divergence, agreement, factor) = report["verify"], BOUNDS[quant]
    text = found["language_model"]["text"]
    assert found["max_abs"] <= error and text["max_error"] <= error
    assert 0 <= text["kl"] <= divergence and text["top1_agreement"] >= agreement
    assert 1 / factor <= text["perplexity"] / text["reference_perplexity"] <= factor
    assert report["facts"]["gguf"]["architecture"] == "llama" and report["facts"]["gguf"]["fallbacks"] == []
    assert found["language_model"]["tokenizer"] == []
    generated = {"tokens": 8, "equal": True} if quant in ("f32", "f16") else None  # quantized weights may continue otherwise
    assert found["language_model"].get("generated") == generated


def test_the_perplexity_of_the_original_is_pytorchs(trained):
    """On the same windows of 64 tokens, by cross entropy in PyTorch."""
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(pyllama(), dtype=torch.float32).eval()
    ids = transformers.AutoTokenizer.from_pretrained(pyllama())((trained["f32"].parent / "held.txt").read_text())["input_ids"]
    windows = torch.tensor(ids[: len(ids) // 64 * 64]).view(-1, 64)
    with torch.no_grad():
        logits = model(windows).logits
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), windows[:, 1:].flatten())
    found = report_of(trained["q4_k_m"])["verify"]["language_model"]["text"]
    assert found["positions"] == windows.numel()
    assert math.isclose(found["reference_perplexity"], math.exp(loss), rel_tol=1e-4)  # float32 sums


@pytest.mark.parametrize("quant", BOUNDS)
def test_formats_and_bits_are_those_that_the_gguf_package_reads(trained, quant):
    facts, tensors = report_of(trained[quant])["facts"]["gguf"], stored(trained[quant] / "model.gguf")
    assert facts["formats"] == dict(Counter(format_ for format_, _, _ in tensors.values()))
    size, count = sum(len(data) for *_, data in tensors.values()), sum(math.prod(shape) for _, shape, _ in tensors.values())
    assert facts["tensor_bytes"] == size and facts["bits_per_weight"] == pytest.approx(8 * size / count, abs=1e-4)


def test_an_artifact_verifies_in_a_fresh_process(trained):
    command = [sys.executable, "-m", "edgecc", "verify", str(trained["q4_k_m"]), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ok"]


def test_greedy_tokens_are_those_of_transformers(trained, edgecc):
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(pyllama())
    model = transformers.AutoModelForCausalLM.from_pretrained(pyllama(), dtype=torch.float32).eval()
    for prompt in ("import os\n\ndef ", "class Node:\n    def __init__(self"):
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        wanted = model.generate(ids, max_new_tokens=32, do_sample=False, pad_token_id=0, attention_mask=torch.ones_like(ids))[0]
        result = edgecc("run", trained["f32"], "--prompt", prompt, "--max-tokens", "32", "--json")
        assert result.code == 0, result.err
        assert result.document["tokens"] == wanted[ids.shape[1] :].tolist()
        assert result.document["text"] == tokenizer.decode(wanted[ids.shape[1] :])


def test_minilm_keeps_its_embeddings(tmp_path):
    """Lines of several lengths: those of the padding are not compared."""
    (tmp_path / "lines.txt").write_text("\n".join(sentences(12)))
    flags = ["--quant", "f32", "--allow-approximate", "--eval", tmp_path / "lines.txt", *tokens("seq=2..64")]
    report = report_of(compiled(minilm(), tmp_path / "out", *flags))
    found = report["verify"]["language_model"]
    assert found["embeddings"] == 15 and found["min_cosine"] >= 0.99999  # GELU by tanh, read from a table of float16
    effect = next(step for step in report["passes"] if step["name"] == "approximate-gelu")
    assert effect["rewrites"] == 6 and 0 < effect["original"]["max_abs"] < 0.05


def test_minilm_in_k_quants_falls_back_and_says_so(edgecc, tmp_path):
    flags = ["--quant", "q4_k_m", "--allow-approximate", "--progress", "none", *tokens(16)]
    result = edgecc("compile", minilm(), "--target", "gguf", "-o", "out", *flags)
    assert result.code == 0, result.err
    facts, tensors = report_of(tmp_path / "out")["facts"]["gguf"], stored(tmp_path / "out/model.gguf")
    assert all(shape[-1] % 256 for name, (_, shape, _) in tensors.items() if name in {f["tensor"] for f in facts["fallbacks"]})
    narrow = [
        n
        for n, (_, shape, _) in tensors.items()
        if len(shape) > 1 and shape[-1] % 256 and n not in ("position_embd.weight", "token_types.weight")
    ]
    assert sorted(f["tensor"] for f in facts["fallbacks"]) == sorted(narrow) and len(narrow) == 31
    assert facts["bits_per_weight"] > 7  # not the 4.85 that the name of the mixture promises
    printed = "".join(line + "\n" for line in result.out.splitlines() if line.startswith("fallback"))
    assert (
        "q5_0 instead of q4_k, 384 columns are no multiple of 256" in printed
        and f"{facts['bits_per_weight']:.3f} bits a weight" in result.out
    )
    assert report_of(tmp_path / "out")["verify"]["cosine"] >= 0.97  # measured 0.989, on random tokens


def test_a_module_with_names_that_say_nothing(edgecc, tmp_path):
    result = edgecc("compile", f"{HERE}:hand_written", "--target", "gguf", "--quant", "f32", "-o", "out", "--progress", "none")
    assert result.code == 0, result.err
    report = report_of(tmp_path / "out")
    assert report["facts"]["gguf"]["architecture"] == "llama" and report["verify"]["max_abs"] <= 1e-5  # sums in another order
    assert "the context length is 12, that of the inputs" in result.out
    model, (ids,) = hand_written()
    np.save(tmp_path / "ids.npy", ids.numpy())
    assert edgecc("run", "out", "--input", "ids=ids.npy", "-o", "found.npz").code == 0
    np.testing.assert_allclose(np.load("found.npz")["output"], model(ids).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize(("target", "tolerance"), [("gguf", 0.02), (Gguf(mixture="f32"), 1e-5)], ids=["by name", "with options"])
def test_the_python_api_and_any_length(target, tolerance, tmp_path):
    model, (ids,) = hand_written()
    result = api.compile(model, ids, target=target, dims={"ids": {1: Dim("seq", 2, 32)}}, output=tmp_path / "out")
    (runner,) = api.runners(result.artifact)
    for length in (2, 12, 31):
        given = torch.randint(0, 97, (1, length), generator=torch.Generator().manual_seed(length))
        with torch.no_grad():
            wanted = model(given).numpy()
        np.testing.assert_allclose(runner.run({"ids": given.numpy()})["output"], wanted, atol=tolerance)  # by name it is f16


def test_an_exported_program_is_compiled_as_the_module(edgecc, tmp_path):
    model, given = hand_written()
    torch.export.save(torch.export.export(model, given), tmp_path / "model.pt2")
    a = compiled(tmp_path / "model.pt2", tmp_path / "a", "--quant", "q8_0")
    b = compiled(f"{HERE}:hand_written", tmp_path / "b", "--quant", "q8_0")
    assert (a / "model.gguf").read_bytes() == (b / "model.gguf").read_bytes()


def test_rows_that_are_padded_on_the_right(llama, edgecc, tmp_path):
    import transformers

    compiled(llama, tmp_path / "out", "--quant", "f32", *tokens("seq=2..32", batch=2))
    model = transformers.AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32).eval()
    ids = torch.randint(2, 300, (2, 9), generator=torch.Generator().manual_seed(3))
    mask = (torch.arange(9) < torch.tensor([[9], [5]])).long()
    np.save(tmp_path / "ids.npy", ids.numpy())
    np.save(tmp_path / "mask.npy", mask.numpy())
    result = edgecc("run", "out", "--input", "input_ids=ids.npy", "--input", "attention_mask=mask.npy", "-o", "found.npz")
    assert result.code == 0, result.err
    with torch.no_grad():
        wanted = model(input_ids=ids, attention_mask=mask).logits.numpy()
    np.testing.assert_allclose(np.load("found.npz")["logits"][0], wanted[0], atol=1e-4)
    np.testing.assert_allclose(np.load("found.npz")["logits"][1, :5], wanted[1, :5], atol=1e-4)


# The same input, the same bytes


def test_threads_processes_and_the_recipe_change_no_byte(llama, tmp_path):
    flags = ["--quant", "q4_k_m", *tokens(16)]
    first = compiled(llama, tmp_path / "first", *flags)
    again = compiled(llama, tmp_path / "again", *flags)
    threads = compiled(llama, tmp_path / "threads", *flags, "--set", "target_options.threads=2")
    command = ["compile", "--recipe", str(first / "recipe.toml"), "-o", str(tmp_path / "recipe"), "-q"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-m", "edgecc", *command], check=True, env=environment, cwd=tmp_path, stderr=subprocess.DEVNULL)
    for other in (again, tmp_path / "recipe"):
        for name in ("model.gguf", "manifest.json", "recipe.toml", "reference/case-00.npz"):
            assert (other / name).read_bytes() == (first / name).read_bytes(), (other, name)
    assert (threads / "model.gguf").read_bytes() == (first / "model.gguf").read_bytes()


def test_shards_hold_the_same_tensors_and_load(llama, edgecc, tmp_path):
    flags = ["--quant", "q8_0", *tokens(16)]
    whole = compiled(llama, tmp_path / "whole", *flags)
    shards = compiled(llama, tmp_path / "shards", *flags, "--shard-size", "40K")
    files = sorted(shards.glob("*.gguf"))
    assert [f.name for f in files] == [f"model-{i:05}-of-{len(files):05}.gguf" for i in range(1, len(files) + 1)] and len(files) > 2
    assert stored(*files) == stored(whole / "model.gguf")
    assert all(sum(len(data) for *_, data in stored(f).values()) <= 40 << 10 for f in files)
    assert edgecc("verify", shards).code == 0
    assert report_of(shards)["facts"]["gguf"]["shards"] == len(files)
    assert report_of(shards)["size_bytes"]["model"] == sum(f.stat().st_size for f in files)
    prompt = ["--prompt", "def f", "--max-tokens", "6", "--json"]
    assert edgecc("run", shards, *prompt).document == edgecc("run", whole, *prompt).document


# Approximations


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("hf") / "bert")


def test_gelu_by_erf_is_refused_with_its_place_and_what_tanh_would_do(bert, edgecc, tmp_path):
    import transformers

    result = edgecc("compile", bert, "--target", "gguf", "--quant", "f32", "-o", "out", "--progress", "none", *tokens(16))
    assert result.code == 4 and not (tmp_path / "out").exists()
    for part in (
        "llama.cpp's bert is not quite this model: layer 0, %gelu: gelu, want gelu_tanh",
        "activations.py:",
        "--allow-approximate",
    ):
        assert part in result.err
    compiled(bert, tmp_path / "out", "--quant", "f32", "--allow-approximate", *tokens(16))
    step = next(step for step in report_of(tmp_path / "out")["passes"] if step["name"] == "approximate-gelu")
    worst = step["original"]["max_abs"]
    said = float(result.err.partition("moves the outputs by at most ")[2].split()[0])
    model = transformers.AutoModel.from_pretrained(bert, dtype=torch.float32).eval()
    with np.load(tmp_path / "out/reference/case-00.npz") as case:
        ids = torch.from_numpy(case["input/input_ids"])
    with torch.no_grad():
        exact = model(ids).last_hidden_state
        for layer in model.encoder.layer:
            layer.intermediate.intermediate_act_fn = torch.nn.GELU(approximate="tanh")
        moved = float((model(ids).last_hidden_state - exact).abs().max())
    assert 0.2 * worst <= moved <= 1.01 * worst  # the report has the worst of three samples
    assert said == pytest.approx(worst, rel=0.01)  # three digits


def test_a_hand_written_decoder_with_erf(edgecc, tmp_path):
    flags = ["--target", "gguf", "--quant", "f32", "-o", "out", "--progress", "none"]
    result = edgecc("compile", f"{HERE}:erf", *flags)
    assert result.code == 4 and "llama.cpp's gpt2 is not quite this model: layer 0" in result.err and "decoders.py:" in result.err
    assert edgecc("compile", f"{HERE}:erf", *flags, "--allow-approximate").code == 0
    assert report_of(tmp_path / "out")["facts"]["gguf"]["architecture"] == "gpt2"


# Blame


@pytest.mark.parametrize(
    ("quant", "parts"),
    [
        ("f32", ["the first layer that differs is layer 1 of 2, %", "modeling_llama.py:", "the model of those before agrees"]),
        ("q8_0", ["blk.1.ffn_up.weight (q8_0) in the file is another weight than the model's", "rounding explains"]),
    ],
)
def test_a_file_with_another_weight_says_where(llama, edgecc, tmp_path, quant, parts):
    flags = ["--target", "damaged_gguf", "--load", HERE.replace("gguf_host", "damaged_target"), "--quant", quant, "-o", "out", *tokens(16)]
    result = edgecc("compile", llama, *flags, "--progress", "none")
    assert result.code == 1, result.err
    assert not (tmp_path / "out").exists()
    for part in parts:
        assert part in result.err


def test_an_encoder_with_another_weight_says_where(bert, edgecc):
    flags = ["--target", "damaged_gguf", "--load", HERE.replace("gguf_host", "damaged_target"), "--quant", "f32", "-o", "out", *tokens(16)]
    result = edgecc("compile", bert, *flags, "--allow-approximate", "--progress", "none")
    assert result.code == 1 and "the first layer that differs is layer 1 of 2" in result.err and "modeling_bert.py:" in result.err


@pytest.mark.parametrize(
    ("name", "tensor", "layer"),
    [
        ("no_network", "blk.2.ffn_up.weight", "layer 2 of 3"),
        ("parallel_one", "blk.1.attn_output.weight", "layer 1 of 2"),
        ("parallel_two", "blk.0.ffn_up.weight", "layer 0 of 2"),
        ("alibi", "blk.1.ffn_down.weight", "layer 1 of 2"),
        ("qwen2", "blk.1.attn_q.bias", "layer 1 of 2"),
        ("pruned", "token_embd.weight", "layer 0 of 2"),
    ],
)
def test_every_kind_of_layer_can_be_blamed(name, tensor, layer, tmp_path):
    model, ids = decoder(DECODERS[name][0]), torch.randint(0, 97, (1, 12), generator=torch.Generator().manual_seed(1))
    with pytest.raises(ContractError, match=rf"the first layer that differs is {layer}, %.*t\.\d\.m, decoders\.py:\d+"):
        api.compile(model, ids, target=DamagedGguf(mixture="f32", tensor=tensor), output=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
