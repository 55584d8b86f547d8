"""`edgecc run --prompt` and `edgecc bench` on a GGUF artifact."""

# ruff: noqa: F811  a test takes a fixture by the name that it was imported under

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from edgecc.__main__ import main
from edgecc.targeting.generation import Sampling
from edgecc.targets.gguf.runtime.llama_cpp import LlamaCpp
from tests.cli.conftest import HOST, compiled, edgecc  # noqa: F401  fixtures
from tests.targets.gguf import tiny_gguf
from tests.targets.gguf.tiny_gguf import greedy

pytestmark = pytest.mark.slow  # every test starts llama.cpp, and three artifacts are compiled

TARGET = str(Path(__file__).parent / "tiny_target.py")


def compile_kind(folder: Path, kind: str) -> Path:
    words = ["compile", f"{TARGET}:{kind}_model", "--load", TARGET, "--target", "tiny_gguf", "--set", f"target_options.kind={kind}"]
    assert main([*words, "-o", str(folder / kind), "-q"]) == 0
    return folder / kind


@pytest.fixture(scope="module")
def with_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_kind(tmp_path_factory.mktemp("artifact"), "bytes")


@pytest.fixture(scope="module")
def without_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_kind(tmp_path_factory.mktemp("artifact"), "words")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_kind(tmp_path_factory.mktemp("artifact"), "encoder")


def test_a_prompt_is_continued_greedily(edgecc, with_text, tmp_path):
    tiny = tiny_gguf.llama(tmp_path / "model.gguf", tokenizer=True)
    want = greedy(tiny, [tiny_gguf.BEGIN, *b"cat"], 12)
    found = edgecc("run", with_text, "--load", TARGET, "--prompt", "cat", "--max-tokens", "12", "--json")
    assert found.code == 0
    assert found.document == {"text": bytes(want).decode(errors="replace"), "tokens": want, "stop": "limit"}


def test_the_text_alone_is_on_standard_output(edgecc, with_text):
    flags = ["--load", TARGET, "--prompt", "cat", "--max-tokens", "12"]
    text = edgecc("run", with_text, *flags, "--json").document["text"]
    for quiet in ([], ["-q"]):
        result = edgecc("run", with_text, *flags, *quiet)
        assert result.code == 0 and result.out.rstrip("\n") == text.rstrip("\n")
    assert "12 tokens: that many were asked for" in edgecc("run", with_text, *flags, "-v").err


def test_tokens_are_drawn_from_a_seed(edgecc, with_text):
    flags = [
        "--load",
        TARGET,
        "--prompt",
        "cat",
        "--max-tokens",
        "8",
        "--temperature",
        "1.5",
        "--top-k",
        "40",
        "--top-p",
        "0.9",
        "--seed",
        "7",
    ]
    found = edgecc("run", with_text, *flags, "--json").document["tokens"]
    with LlamaCpp(with_text / "model.gguf") as model:
        assert found == [p.token for p in model.generate("cat", limit=8, sampling=Sampling(1.5, 40, 0.9, 7))]


def test_ids_are_a_prompt_for_a_file_without_a_tokenizer(edgecc, without_text, tmp_path):
    want = greedy(tiny_gguf.llama(tmp_path / "model.gguf"), [1, 2, 3], 6)
    flags = ["--load", TARGET, "--prompt-ids", "1,2,3", "--max-tokens", "6"]
    assert edgecc("run", without_text, *flags, "--json").document == {"text": None, "tokens": want, "stop": "limit"}
    assert edgecc("run", without_text, *flags).out.split() == [str(token) for token in want]


def test_a_text_for_a_file_without_a_tokenizer_is_refused(edgecc, without_text):
    result = edgecc("run", without_text, "--load", TARGET, "--prompt", "cat")
    assert result.code == 2
    assert "the file holds no tokenizer" in result.err and "try: --prompt-ids 1,2,3" in result.err


def test_ids_that_the_model_does_not_have_are_refused(edgecc, without_text):
    result = edgecc("run", without_text, "--load", TARGET, "--prompt-ids", "1,61")
    assert result.code == 2 and "token 1 is 61, want 0 to 60" in result.err


def test_an_encoder_continues_no_text(edgecc, encoder):
    result = edgecc("run", encoder, "--load", TARGET, "--prompt-ids", "1")
    assert result.code == 2 and "the model is an encoder: it continues no text" in result.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--prompt", "a", "--prompt-ids", "1"], "--prompt goes with no --prompt-ids"),
        (["--prompt", "a", "--input", "x=x.npy", "-o", "out.npz"], "a prompt goes with no --input and no -o"),
        (["--temperature", "1", "--top-k", "3"], "--temperature, --top-k without a prompt"),
        (["--prompt-ids", "1;2"], "'1;2' is no list of token ids"),
        (["--prompt", "a", "--max-tokens", "0"], "0 tokens were asked for"),
        (["--prompt", "a", "--temperature", "-1"], "the temperature is -1"),
        (["--prompt", "a" * 97], "98 tokens are more than the model's context of 96"),
    ],
)
def test_a_wrong_flag_is_a_usage_error(edgecc, with_text, flags, message):
    result = edgecc("run", with_text, "--load", TARGET, *flags)
    assert result.code == 2 and message in result.err


def test_another_target_generates_no_text(edgecc, compiled):
    result = edgecc("run", compiled, "--load", HOST, "--prompt", "cat")
    assert result.code == 2 and "target 'torch_host' generates no text" in result.err


def test_a_dry_run_loads_nothing(edgecc, with_text):
    result = edgecc("run", with_text, "--load", TARGET, "--prompt", "cat", "--dry-run")
    assert result.code == 0 and result.out == "dry run   the prompt was not run\n"


def test_a_reader_that_goes_away_is_no_error(with_text):
    command = [sys.executable, "-m", "edgecc", "run", str(with_text), "--load", TARGET, "--prompt", "cat", "--max-tokens", "60"]
    root = Path(__file__).parents[3]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=root) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        assert (process.wait(), process.stderr.read().count(b"error")) == (0, 0)


def test_an_interrupt_ends_the_generation_and_its_child(tmp_path):
    artifact = compile_kind(tmp_path, "long")
    # a job that a shell starts in the background ignores SIGINT, and so would its child: a terminal's does not
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); from edgecc.__main__ import main; sys.exit(main())"
    )
    command = [sys.executable, "-c", program, "run", str(artifact), "--load", TARGET, "--prompt", "cat", "--max-tokens", "100000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path(__file__).parents[3]) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(1)
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.send_signal(signal.SIGINT)
        _, error = process.communicate()
    assert process.returncode == 130 and b"edgecc: interrupted" in error
    assert not Path("/proc", child).exists()


def test_inputs_from_files_are_run_as_before(edgecc, with_text, tmp_path):
    ids = np.array([[3, 1, 4, 1, 5]])
    np.save(tmp_path / "ids.npy", ids)
    result = edgecc("run", with_text, "--load", TARGET, "--input", "ids=ids.npy", "-o", "out.npz")
    assert result.code == 0
    tiny = tiny_gguf.llama(tmp_path / "model.gguf", tokenizer=True)
    with np.load(tmp_path / "out.npz") as outputs:
        (name,) = outputs.files
        # 5e-5: float32 against float64 for logits up to 8
        np.testing.assert_allclose(outputs[name][0], tiny.forward(torch.from_numpy(ids[0])).numpy(), atol=5e-5)


def test_the_artifact_is_verified_in_llama_cpp(edgecc, with_text):
    document = edgecc("verify", with_text, "--load", TARGET, "--json").document
    assert document["ok"] and document["runtimes"][0]["runtime"].startswith("llama.cpp b")


def test_bench_times_tokens(edgecc, with_text):
    document = edgecc("bench", with_text, "--load", TARGET, "--seconds", "0.01", "--json").document
    assert document["runtime"].startswith("llama.cpp b") and document["latency_ms"] is None
    assert (document["prompt_tokens"], document["new_tokens"]) == (64, 32)
    for figures in (document["prompt_tokens_per_second"], document["decode_tokens_per_second"]):
        assert 0 < figures["p90"] <= figures["p50"]
    assert document["load_ms"] > 0 and document["peak_bytes"] > 0 and document["runs"] >= 3
    assert document["size_bytes"] == (with_text / "model.gguf").stat().st_size
    assert (document["peers"], document["missing"]) == ({}, [])


def test_bench_shows_them(edgecc, with_text):
    lines = edgecc("bench", with_text, "--load", TARGET, "--seconds", "0.01").out.splitlines()
    assert [line.split()[0] for line in lines] == ["run", "prompt", "decode", "load", "memory", "note", "size"]


def test_bench_of_an_encoder_decodes_nothing(edgecc, encoder):
    document = edgecc("bench", encoder, "--load", TARGET, "--seconds", "0.01", "--json").document
    assert document["prompt_tokens_per_second"]["p50"] > 0 and document["decode_tokens_per_second"] is None
    lines = edgecc("bench", encoder, "--load", TARGET, "--seconds", "0.01").out.splitlines()
    assert [line.split()[0] for line in lines] == ["run", "prompt", "load", "memory", "note", "size"]
