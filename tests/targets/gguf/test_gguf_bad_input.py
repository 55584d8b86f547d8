"""Bad input to the gguf target: the documented exit code, one clear message, and nothing left behind."""

# ruff: noqa: F811  a test takes a fixture by the name that it was imported under
from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import ROOT
from tests.cli.conftest import Result, edgecc, folder  # noqa: F401  fixtures
from tests.targets.gguf.gguf_host import HERE, compiled, edited, save_quietly, tiny_bert, tiny_llama, tokens, with_weights
from tests.test_bad_input import refused
from tests.test_bad_output import LIMITED
from tests.test_interrupt import PROGRAM, marked, wait_until

pytestmark = pytest.mark.slow  # most tests trace a model of transformers
for package in ("gguf", "xllamacpp", "transformers"):
    pytest.importorskip(package)

FLAGS = ["--target", "gguf", "-o", "out", "--progress", "none", "-q"]
SHORT = [*FLAGS, *tokens(8)]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("hf") / "llama")


@pytest.fixture(scope="module")
def artifact(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory. Tests do not change it."""
    return compiled(llama, tmp_path_factory.mktemp("artifact") / "out", "--quant", "q8_0", *tokens(8))


# Names and numbers, refused before the model is loaded


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--quant", "q4_k_mm"], ["the mixture is 'q4_k_mm'", "did you mean 'q4_k_m'?"]),
        (["--quant", "int5"], ["the mixture is 'int5'", "known: bf16, f16, f32,"]),
        (["--set", "target_options.threads=0"], ["threads is 0, want at least 1"]),
        (["--set", "target_options.compensate=some"], ["compensate is 'some', want hessian or none"]),
        (["--context", "-5"], ["context is -5"]),
        (["--set", "target_options.mixtures=q8_0"], ["mixtures", "did you mean 'mixture'?"]),
    ],
)
def test_an_option_that_is_none(edgecc, folder, flags, parts):
    refused(edgecc("compile", "nowhere", *FLAGS, *flags), 2, *parts)
    assert folder() == []


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ("attn_v=q9_0", ["--tensor-type attn_v=q9_0: unknown format 'q9_0'", "did you mean 'q8_0'?"]),
        ("attn_(v=q4_0", ["no regular expression"]),
        ("attention_v=q4_0", ["no quantized tensor has such a name", "names are like blk.1."]),
        ("q4_0", ["want REGEX=FORMAT"]),
    ],
)
def test_a_tensor_type_that_fits_nothing(llama, edgecc, folder, given, parts):
    refused(edgecc("compile", llama, *SHORT, "--tensor-type", given), 2, *parts)
    assert folder() == []


# The folder of the model


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its embedding has fewer rows than its tokenizer tokens."""
    return tiny_llama(tmp_path_factory.mktemp("hf") / "few", vocab_size=300)


def test_more_tokens_than_the_embedding_has_rows(few, edgecc, tmp_path):
    message = f"vocabulary mismatch: the tokenizer of {few} has 320 tokens, the embedding of the model 300 rows"
    refused(edgecc("compile", few, *SHORT), 2, message, "tokens were added and the embedding was not resized")
    assert not (tmp_path / "out").exists()


def test_fewer_tokens_than_rows_are_padded(edgecc, tmp_path):
    import gguf

    compiled(tiny_llama(tmp_path / "m", vocab_size=352), tmp_path / "out", "--quant", "f16", *tokens(8))
    kinds = gguf.GGUFReader(tmp_path / "out/model.gguf").get_field("tokenizer.ggml.token_type").contents()
    assert len(kinds) == 352 and set(kinds[320:]) == {int(gguf.TokenType.UNUSED)}


@pytest.mark.parametrize(
    ("text", "code", "parts"),
    [
        (None, 2, ["m has no tokenizer; looked for tokenizer.json, tokenizer.model"]),
        ('{"version": "1.0", "mod', 2, ["m/tokenizer.json cannot be read"]),
        ('{"version": "1.0"}', 2, ["m/tokenizer.json has no model: it is no tokenizer"]),
        ('{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b c d"]}}', 2, ["the tokenizer is damaged"]),
        ('{"version": "1.0", "model": {"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 0}}', 4, ["a tokenizer of kind Unigram"]),
    ],
    ids=["missing", "truncated", "no model", "merges", "unigram"],
)
def test_a_tokenizer_that_cannot_be_read(llama, edgecc, tmp_path, text, code, parts):
    shutil.copytree(llama, tmp_path / "m")
    (tmp_path / "m/tokenizer.json").unlink()
    if text is not None:
        (tmp_path / "m/tokenizer.json").write_text(text)
    refused(edgecc("compile", "m", *SHORT), code, *parts)
    assert not (tmp_path / "out").exists()
    assert edgecc("compile", "m", *SHORT, "--tokenizer", "none").code == 0


def test_nan_in_the_weights_is_named_however_little_is_checked(llama, edgecc, tmp_path):
    def spoil(weights: dict[str, torch.Tensor]) -> None:
        weights["model.layers.1.mlp.down_proj.weight"][3, 4] = torch.nan

    with_weights(llama, tmp_path / "m", spoil)
    message = "the weight model.layers.1.mlp.down_proj.weight holds nan at [3, 4]"
    for flags in ([], ["--allow-nonfinite", "--verify", "off", "--cases", "0", "--quant", "q4_k_m"]):
        refused(edgecc("compile", "m", *SHORT, *flags), 2, message)
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("quant", ["f16", "q4_0"])
def test_a_weight_beyond_its_format_is_named(llama, edgecc, tmp_path, quant):
    def spoil(weights: dict[str, torch.Tensor]) -> None:
        weights["model.layers.1.mlp.down_proj.weight"][3, 4] = 1e6

    with_weights(llama, tmp_path / "m", spoil)
    refused(edgecc("compile", "m", *SHORT, "--quant", quant), 2, "blk.1.ffn_down.weight", f"too large for {quant}", "bf16 and f32 hold")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("factor", "quant"), [(0.0, "q4_k_m"), (1e-9, "f16")])
def test_a_weight_that_vanishes_is_no_error(llama, tmp_path, factor, quant):
    def shrink(weights: dict[str, torch.Tensor]) -> None:
        weights["model.layers.1.mlp.down_proj.weight"] *= factor

    compiled(with_weights(llama, tmp_path / "m", shrink), tmp_path / "out", "--quant", quant, *tokens(8))


@pytest.fixture(scope="module")
def shards(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights in several files."""
    import transformers

    made = tmp_path_factory.mktemp("hf") / "shards"
    save_quietly(transformers.AutoModelForCausalLM.from_pretrained(llama), made, max_shard_size="100KB")
    shutil.copy(llama / "tokenizer.json", made)
    return made


def test_weights_in_several_files_that_are_not_whole(shards, edgecc, tmp_path):
    second = sorted(shards.glob("model-*"))[1].name
    for name in ("truncated", "missing"):
        shutil.copytree(shards, tmp_path / name)
    (tmp_path / "truncated" / second).write_bytes((shards / second).read_bytes()[:-1000])
    (tmp_path / "missing" / second).unlink()
    refused(edgecc("compile", "truncated", *SHORT), 2, f"truncated/{second} is a damaged safetensors file")
    refused(edgecc("compile", "missing", *SHORT), 2, f"model.safetensors.index.json names files that are not there: {second}")
    assert not (tmp_path / "out").exists()
    compiled(shards, tmp_path / "out", "--quant", "q8_0", *tokens(8))


def test_a_damaged_configuration_is_one_message(llama, edgecc, tmp_path):
    shutil.copytree(llama, tmp_path / "m")
    (tmp_path / "m/config.json").write_text("{")
    refused(edgecc("compile", "m", *SHORT), 2, "m/config.json cannot be read")


# Lengths


def test_inputs_longer_than_the_context_name_who_says_so(llama, edgecc, tmp_path):
    edited(llama, tmp_path / "window", sliding_window=8)
    edited(llama, tmp_path / "unused", sliding_window=8, use_sliding_window=False)
    long = "the inputs have up to 40 tokens, more than the model takes: "

    def dry(model: object, *flags: str) -> Result:
        return edgecc("compile", model, *FLAGS, "--dry-run", *flags)

    refused(dry(llama, *tokens(40)), 2, f"{long}{llama}/config.json says 32 (max_position_embeddings)", "--context 40")
    refused(dry(llama, *tokens("seq=2..40")), 2, f"{long}{llama}/config.json says 32")
    message = "the inputs have up to 16 tokens, more than the model takes: window/config.json says 8 (sliding_window)"
    refused(dry("window", *tokens(16)), 2, message)
    assert dry("unused", *tokens(16)).code == dry("window", *tokens(16), "--context", "16").code == 0


def test_the_window_is_the_context_of_the_file(llama, tmp_path):
    import gguf

    compiled(edited(llama, tmp_path / "window", sliding_window=8), tmp_path / "out", *tokens(8))
    assert gguf.GGUFReader(tmp_path / "out/model.gguf").get_field("llama.context_length").contents() == 8


# Graphs


@pytest.mark.parametrize(
    ("factory", "parts"),
    [
        ("image_model", ["the graph is no model that llama.cpp runs: %", "no input indexes a table of tokens"]),
        ("squared_relu", ["no architecture of llama.cpp computes this; the nearest is", "layer 0", "decoders.py:"]),
        ("windowed", ["its mask hides tokens that came before", "(a sliding window?)", "decoders.py:"]),
        ("single_token", ["want [sequences, tokens] with at least two tokens"]),
    ],
)
def test_a_graph_that_llama_cpp_does_not_compute(edgecc, folder, factory, parts):
    refused(edgecc("compile", f"{HERE}:{factory}", *FLAGS), 4, *parts)
    assert folder() == []
    dry = edgecc("compile", f"{HERE}:{factory}", *FLAGS, "--dry-run")
    assert dry.code == 4 and parts[0] in dry.err


# Tools, disks, signals


def test_without_xllamacpp_the_install_line_is_given(artifact, edgecc, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "xllamacpp", None)  # what Python itself holds for a module that must not be imported
    before = folder()
    for words in (["compile", f"{HERE}:hand_written", *FLAGS], ["verify", artifact, "--progress", "none"]):
        refused(edgecc(*words), 5, "llama.cpp", "pip install 'edgecc[gguf]'")
    refused(edgecc("run", artifact, "--prompt", "a", "--progress", "none"), 5, "pip install 'edgecc[gguf]'")
    assert folder() == before
    assert edgecc("compile", f"{HERE}:hand_written", *FLAGS, "--verify", "off").code == 0  # it is written without it


@pytest.mark.parametrize("limit", [300, 50_000])
def test_a_full_disk_leaves_nothing(tmp_path, limit):
    """A limit on the size of files stands for the disk: the recipe fails on it, or the model."""
    words = ["compile", f"{HERE}:hand_written", "--target", "gguf", "--quant", "f32", "-o", "a/out", "--progress", "none", "-q"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    program = [sys.executable, "-c", LIMITED.format(limit), *words]
    done = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "edgecc: error: cannot write a/out: File too large\n" in done.stderr and done.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("line", "number"), [("layer 1 of 4", signal.SIGINT), ("running the artifact", signal.SIGTERM)])
def test_a_signal_leaves_nothing(tmp_path, line, number):
    work, temporary = tmp_path / "work", tmp_path / "tmp"
    work.mkdir()
    temporary.mkdir()
    mark = f"{tmp_path.name}-{os.getpid()}-"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary), "EDGECC_TEST_MARK": mark}
    words = ["compile", f"{HERE}:slow_to_round", "--target", "gguf", "--quant", "iq4_xs", "-o", "deep/out", "--progress", "plain"]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words], cwd=work, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    said = wait_until(process, tmp_path / "never", line)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130 and out == "", said + err
    assert (said + err).splitlines()[-1] == "edgecc: interrupted"
    assert list(work.iterdir()) == [] and marked(f"EDGECC_TEST_MARK={mark}") == []
    assert [p for p in temporary.iterdir() if not p.name.startswith("torchinductor")] == []


# Artifacts


@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing"])
def test_a_damaged_file_is_neither_verified_nor_run(artifact, edgecc, tmp_path, damage):
    file = shutil.copytree(artifact, tmp_path / "copy") / "model.gguf"
    data = bytearray(file.read_bytes())
    data[len(data) - 5000] ^= 1
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(data if damage == "flipped" else data[:-5000])
    wrong = "model.gguf is missing" if damage == "missing" else "model.gguf has changed since it was compiled"
    result = edgecc("verify", "copy", "--json")
    assert (result.code, result.document["problems"]) == (1, [wrong])
    refused(edgecc("run", "copy", "--prompt", "a"), 1, f"copy is not what was compiled: {wrong}")


def test_a_damaged_file_whose_digest_was_forged_is_still_found_out(artifact, edgecc, tmp_path):
    """The numbers speak: another weight in the file gives other logits."""
    import gguf

    copy = shutil.copytree(artifact, tmp_path / "copy")
    reader = gguf.GGUFReader(copy / "model.gguf", "r+")
    tensor = next(t for t in reader.tensors if t.name == "output.weight")
    tensor.data[:] = tensor.data[::-1].copy()
    reader.data.flush()
    _sign(copy)
    result = edgecc("verify", "copy", "--json")
    assert result.code == 1 and "the outputs differ by" in result.document["problems"][0]


def test_a_truncated_file_whose_digest_was_forged_is_one_message(artifact, edgecc, tmp_path):
    copy = shutil.copytree(artifact, tmp_path / "copy")
    (copy / "model.gguf").write_bytes((copy / "model.gguf").read_bytes()[:-5000])
    _sign(copy)
    for words in (["verify", "copy"], ["run", "copy", "--prompt", "a"]):
        refused(edgecc(*words, "--progress", "none"), 1, "llama.cpp", "model.gguf")


def _sign(directory: Path) -> None:
    """Write the digest that the changed file has into the manifest."""
    import hashlib

    manifest = json.loads((directory / "manifest.json").read_text())
    data = (directory / "model.gguf").read_bytes()
    manifest["files"]["model.gguf"] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (directory / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("ids", "mask", "parts"),
    [
        (
            [1] * 8,
            [1, 1, 0, 1, 1, 1, 1, 1],
            ["attention_mask of row 0 is [1, 1, 0, 1,", "llama.cpp takes ones and then zeros", "pad on the right"],
        ),
        ([1] * 8, [0, 0, 1, 1, 1, 1, 1, 1], ["attention_mask of row 0 is [0, 0,"]),
        ([1] * 8, [0] * 8, ["leave at least one token"]),
        ([1, 2, 320, 4, 5, 6, 7, 8], [1] * 8, ["token 2 is 320, want 0 to 319"]),
        ([1, -2, 3, 4, 5, 6, 7, 8], [1] * 8, ["token 1 is -2, want 0 to 319"]),
        ([1] * 9, [1] * 9, ["has size 9 at axis 1, want 8"]),
    ],
)
def test_inputs_that_llama_cpp_cannot_take(artifact, edgecc, tmp_path, ids, mask, parts):
    np.save(tmp_path / "ids.npy", np.array([ids]))
    np.save(tmp_path / "mask.npy", np.array([mask]))
    given = ["--input", "input_ids=ids.npy", "--input", "attention_mask=mask.npy", "-o", "found.npz", "--progress", "none"]
    refused(edgecc("run", artifact, *given), 2, *parts)
    assert not (tmp_path / "found.npz").exists()


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("hf") / "bert")


@pytest.fixture(scope="module")
def encoder(bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(bert, tmp_path_factory.mktemp("encoder") / "out", "--quant", "f16", "--allow-approximate", *tokens(8))


def test_an_encoder_continues_no_prompt(encoder, edgecc):
    refused(edgecc("run", encoder, "--prompt", "a", "--progress", "none"), 2, "the model is an encoder: it continues no text")


def test_a_prompt_without_a_tokenizer_wants_ids(llama, edgecc, tmp_path):
    compiled(llama, tmp_path / "out", "--quant", "f16", "--tokenizer", "none", *tokens(8))
    refused(edgecc("run", "out", "--prompt", "a", "--progress", "none"), 2, "the file holds no tokenizer", "--prompt-ids 1,2,3")
    assert edgecc("run", "out", "--prompt-ids", "1,2,3", "--max-tokens", "2").code == 0


def test_token_types_other_than_the_first_are_refused(edgecc, tmp_path, bert):
    """llama.cpp adds the first row of their table to every token."""
    flags = [*tokens(4), "--input", "token_type_ids:i64[1,4]", "--allow-approximate"]
    compiled(bert, tmp_path / "out", "--quant", "f32", *flags)
    for name, values in (("ids", [1, 2, 3, 4]), ("ones", [1] * 4), ("zeros", [0] * 4), ("types", [0, 0, 1, 1])):
        np.save(tmp_path / f"{name}.npy", np.array([values]))
    given = ["--input", "input_ids=ids.npy", "--input", "attention_mask=ones.npy", "--progress", "none"]
    assert edgecc("run", "out", *given, "--input", "token_type_ids=zeros.npy").code == 0
    message = "token_type_ids is [0, 0, 1, 1]; llama.cpp runs every sequence with [0, 0, 0, 0]"
    refused(edgecc("run", "out", *given, "--input", "token_type_ids=types.npy"), 2, message)


def test_a_context_that_the_table_of_positions_contradicts(edgecc, folder):
    result = edgecc("compile", f"{HERE}:with_positions", *FLAGS, "--context", "32")
    refused(result, 2, "--context is 32, and the model has a table of 64 positions")
    assert folder() == []


def test_positions_that_do_not_count_from_0_are_refused(llama, artifact, edgecc, tmp_path):
    compiled(llama, tmp_path / "out", "--quant", "q8_0", *tokens(8), "--input", "position_ids:i64[1,8]")
    for name, values in (("ids", range(10, 18)), ("ones", [1] * 8), ("counted", range(8)), ("later", range(3, 11))):
        np.save(tmp_path / f"{name}.npy", np.array([list(values)]))
    given = ["--input", "input_ids=ids.npy", "--input", "attention_mask=ones.npy", "--progress", "none", "-o", "found.npz", "--overwrite"]
    assert edgecc("run", artifact, *given).code == 0
    wanted = np.load("found.npz")["logits"]
    assert edgecc("run", "out", *given, "--input", "position_ids=counted.npy").code == 0
    np.testing.assert_array_equal(np.load("found.npz")["logits"], wanted)  # the files hold the same numbers
    message = "position_ids is [3, 4, 5, 6, 7, 8, 9, 10]; llama.cpp runs every sequence with [0, 1, 2, 3, 4, 5, 6, 7]"
    refused(edgecc("run", "out", *given, "--input", "position_ids=later.npy"), 2, message)
