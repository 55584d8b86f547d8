"""What goes wrong in llama.cpp is told, and no child is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgecc.errors import ContractError, MissingToolError, UsageError
from edgecc.targets.gguf.runtime.llama_cpp import LlamaCpp
from tests.targets.gguf import tiny_gguf


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tiny_gguf.llama(tmp_path / "model.gguf").path


def load_error(file: Path) -> str:
    with pytest.raises(ContractError) as caught, LlamaCpp(file):
        pass
    return caught.value.message


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda data: b"", "failed to read magic"),
        (lambda data: b"GGML" + data[4:], "invalid magic characters: 'GGML', expected 'GGUF'"),
        (lambda data: data[:200], "exceeds remaining file size"),
        (lambda data: data[:-3000], "data is not within the file bounds"),
        (lambda data: data[:8] + b"\xff" * 16 + data[24:], "number of tensors is -1"),
    ],
)
def test_a_damaged_file_is_refused_with_what_llama_cpp_says(file, damage: Callable[[bytes], bytes], why):
    file.write_bytes(damage(file.read_bytes()))
    message = load_error(file)
    assert message.startswith("llama.cpp cannot load model.gguf: ") and why in message


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda w: w.update({"extra.weight": np.ones((4, 4), np.float32)}), "wrong number of tensors; expected 22, got 21"),
        (lambda w: w.pop("blk.1.ffn_up.weight"), "tensor 'blk.1.ffn_up.weight' not found"),
        (lambda w: w.update({"output_norm.weight": np.ones(8, np.float32)}), "tensor 'output_norm.weight' has wrong shape"),
    ],
)
def test_wrong_tensors_are_named(tmp_path, change, why):
    assert why in load_error(tiny_gguf.llama(tmp_path / "model.gguf", change=change).path)


def test_a_missing_part_of_a_model_is_named(tmp_path):
    file = tiny_gguf.llama(tmp_path / "model.gguf", tensors_a_file=8).path
    (tmp_path / "model-00002-of-00003.gguf").unlink()
    assert "model-00002-of-00003.gguf" in load_error(file)


def test_an_unknown_architecture_is_named(tmp_path):
    writer = tiny_gguf.gguf.GGUFWriter(tmp_path / "model.gguf", "frobnicator")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert "unknown model architecture: 'frobnicator'" in load_error(tmp_path / "model.gguf")


def test_an_unknown_pre_tokenizer_is_named(tmp_path):
    def rename(writer):
        writer.kv_data[0]["tokenizer.ggml.pre"].value = "frob"

    assert "unknown pre-tokenizer type: 'frob'" in load_error(tiny_gguf.llama(tmp_path / "model.gguf", tokenizer=True, keys=rename).path)


def test_an_assert_of_ggml_is_an_error_with_its_line(tmp_path):
    """A count of experts without how many are used passes every check and fails an assert."""
    file = tiny_gguf.llama(tmp_path / "model.gguf", keys=lambda writer: writer.add_expert_count(4)).path
    message = load_error(file)
    assert message.startswith("llama.cpp was ended by an abort on model.gguf\n") and "GGML_ASSERT(n_expert_used_max > 0) failed" in message


def test_weights_that_are_no_numbers_give_no_token(tmp_path):
    file = tiny_gguf.llama(tmp_path / "model.gguf", change=lambda w: w["output_norm.weight"].fill(np.nan)).path
    with LlamaCpp(file) as model:
        assert np.isnan(model.logits([1])).all()
        with pytest.raises(ContractError, match="logits that are no numbers"):
            next(model.generate([1]))


def test_tokens_that_the_model_does_not_have_are_refused(file):
    with LlamaCpp(file) as model:
        for ids, why in (
            ([1, 61], "token 1 is 61, want 0 to 60: the vocabulary has 61"),
            ([-1], "token 0 is -1, want 0 to 60"),
            ([5_000_000_000], "token 0 is 5000000000, which is no token id"),
            ([1.5], "tokens are float64 of shape"),
            ([[1, 2]], "want integers in one row"),
            ([], "there are no tokens to run"),
            ([0] * 97, "97 tokens are more than the model's context of 96"),
        ):
            for call in (model.logits, model.embeddings, lambda ids: next(model.generate(ids))):
                with pytest.raises(UsageError) as caught:
                    call(ids)
                assert why in caught.value.message
        assert model.logits([60]).shape == (1, 61)  # it still runs


def test_an_absent_file_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match=r"absent\.gguf is no file"), LlamaCpp(tmp_path / "absent.gguf"):
        pass


def test_without_xllamacpp_the_install_line_is_given(file, monkeypatch):
    monkeypatch.setitem(sys.modules, "xllamacpp", None)  # Python then finds no such module
    with pytest.raises(MissingToolError, match=r"which brings llama\.cpp, is not installed") as caught, LlamaCpp(file):
        pass
    assert caught.value.hint == "pip install 'edgecc[gguf]'"


def test_a_killed_child_is_an_error_and_so_is_every_call_after_it(file):
    with LlamaCpp(file) as model:
        child = model.pid
        os.kill(child, signal.SIGKILL)
        with pytest.raises(ContractError, match=r"llama\.cpp was ended by a kill, as where memory runs out on model\.gguf"):
            model.logits([1])
        assert not exists(child)
        with pytest.raises(ContractError, match=r"llama\.cpp has ended: model\.gguf must be loaded again"):
            model.logits([1])


def test_a_child_that_hangs_is_ended(file):
    with LlamaCpp(file) as model:
        model.seconds = 0.3
        child = model.pid
        os.kill(child, signal.SIGSTOP)
        with pytest.raises(ContractError, match=r"did not answer within 0\.3 s on model\.gguf"):
            model.logits([1])
        assert not exists(child)


@pytest.fixture
def interruptible():
    """SIGINT interrupts, also where the tests run in the background of a shell, which then ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_ends_the_child(file, interruptible):
    with LlamaCpp(file) as model:
        child = model.pid
        os.kill(child, signal.SIGSTOP)  # so that the interrupt arrives while the parent waits
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            model.logits([1])
        assert not exists(child)


def test_an_error_of_the_caller_ends_the_child(file):
    with pytest.raises(ZeroDivisionError), LlamaCpp(file) as model:
        child = model.pid
        _ = 1 // 0
    assert not exists(child)


def test_a_child_ends_with_its_parent():
    """A parent that is killed closes its end of the pipe, and can do no more."""
    child = subprocess.run([sys.executable, "-m", "edgecc.targets.gguf.runtime.child"], stdin=subprocess.DEVNULL, check=False)
    assert child.returncode == 0


def exists(process: int) -> bool:
    """Whether it runs or waits to be reaped."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
