"""llama.cpp in a child process computes what plain PyTorch computes from the same weights."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from edgecc.errors import UsageError
from edgecc.targets.gguf.runtime.llama_cpp import LlamaCpp
from edgecc.targets.gguf.runtime.metrics import compare_embeddings, compare_logits
from tests.targets.gguf import tiny_gguf
from tests.targets.gguf.tiny_gguf import Tiny


def random_ids(tiny: Tiny, count: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(tiny.vocabulary, (count,), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return tiny_gguf.llama(tmp_path_factory.mktemp("llama") / "model.gguf", tokenizer=True, context=700)


@pytest.fixture(scope="module")
def loaded(llama: Tiny) -> Iterator[LlamaCpp]:
    with LlamaCpp(llama.path) as model:
        yield model


@pytest.mark.parametrize(("count", "tolerance"), [(1, 5e-5), (2, 5e-5), (96, 5e-5), (257, 5e-5), (700, 2e-4)])
def test_logits_of_every_position_are_those_of_pytorch(llama, loaded, count, tolerance):
    """257 needs a larger context than the first; 700 is computed in two parts."""
    ids = random_ids(llama, count)
    found = loaded.logits(ids.numpy())
    assert found.shape == (count, llama.vocabulary)
    # 5e-5: float32 against float64 for logits up to 8; keys and values in F16 would cost 1e-3.
    # 2e-4: float32 holds an angle of 700, by which the last queries are turned, to 4e-5
    torch.testing.assert_close(torch.from_numpy(found.copy()).double(), llama.forward(ids), atol=tolerance, rtol=0)


def test_each_sequence_starts_with_an_empty_memory(llama, loaded):
    ids = random_ids(llama, 12)
    first = loaded.logits(ids.numpy())
    loaded.logits(random_ids(llama, 30, seed=2).numpy())
    assert (loaded.logits(ids.numpy()) == first).all()


def test_a_model_without_a_vocabulary_gives_logits(tmp_path):
    tiny = tiny_gguf.llama(tmp_path / "model.gguf")
    ids = random_ids(tiny, 20)
    with LlamaCpp(tiny.path) as model:
        found = torch.from_numpy(model.logits(ids.numpy()).copy())
        assert not model.facts.tokenizer
    torch.testing.assert_close(found.double(), tiny.forward(ids), atol=5e-5, rtol=0)  # as above


def test_a_model_in_several_files_is_loaded_by_its_first(tmp_path):
    tiny = tiny_gguf.llama(tmp_path / "model.gguf", tensors_a_file=8)
    ids = random_ids(tiny, 20)
    with LlamaCpp(tiny.path) as model:
        found = torch.from_numpy(model.logits(ids.numpy()).copy())
    assert len(list(tmp_path.iterdir())) == 3
    torch.testing.assert_close(found.double(), tiny.forward(ids), atol=5e-5, rtol=0)  # as above


def test_gpt2_agrees_as_far_as_the_gelu_table(tmp_path):
    tiny = tiny_gguf.gpt2(tmp_path / "model.gguf")
    ids = random_ids(tiny, tiny_gguf.CONTEXT)
    with LlamaCpp(tiny.path) as model:
        distance = compare_logits(tiny.forward(ids).numpy(), model.logits(ids.numpy()), ids.tolist())
    assert distance.agreement >= 0.99
    assert distance.max_error < 1e-2  # GELU is a table of F16 in ggml: 1e-3 a layer on values of size one
    assert distance.perplexity == pytest.approx(distance.reference_perplexity, rel=1e-3)  # as above


@pytest.mark.parametrize("pooling", ["none", "mean", "cls", "last"])
def test_bert_gives_the_embeddings_of_tokens_and_pools_as_the_file_says(tmp_path, pooling):
    tiny = tiny_gguf.bert(tmp_path / "model.gguf", pooling=pooling)
    ids = random_ids(tiny, 20)
    want = tiny.forward(ids)
    with LlamaCpp(tiny.path) as model:
        assert (model.facts.decoder, model.facts.pooling) == (False, pooling)
        assert compare_embeddings(want.numpy(), model.embeddings(ids.numpy())).min_cosine >= 0.99999
        if pooling == "none":
            with pytest.raises(UsageError, match="the file says nothing of pooling"):
                model.embeddings(ids.numpy(), pooled=True)
            return
        pooled = {"mean": want.mean(0), "cls": want[0], "last": want[-1]}[pooling]
        assert compare_embeddings(pooled.numpy(), model.embeddings(ids.numpy(), pooled=True)).min_cosine >= 0.99999


def test_a_decoder_gives_embeddings_and_then_logits_again(llama, loaded):
    ids = random_ids(llama, 9)
    hidden = torch.from_numpy(loaded.embeddings(ids.numpy()).copy()).double()
    want = llama.forward(ids)
    # 5e-5: as above; the output of the last norm times the output matrix is the logits
    torch.testing.assert_close(hidden @ llama.weights["output.weight"].T, want, atol=5e-5, rtol=0)
    torch.testing.assert_close(torch.from_numpy(loaded.logits(ids.numpy()).copy()).double(), want, atol=5e-5, rtol=0)


def test_facts_are_those_of_the_file(llama, loaded):
    facts = loaded.facts
    assert (facts.architecture, facts.vocabulary, facts.context) == ("llama", 258, 700)
    assert (facts.layers, facts.heads, facts.kv_heads, facts.width) == (2, 4, 2, 32)
    assert facts.decoder and facts.tokenizer and facts.load_ms > 0
    assert facts.parameters == sum(w.numel() for w in llama.weights.values())
    assert loaded.metadata()["llama.rope.freq_base"] == "10000.000000"
    assert loaded.peak_bytes() > facts.bytes


def test_the_runtime_is_named(loaded):
    import xllamacpp

    version = xllamacpp.__version__
    assert loaded.runtime == f"llama.cpp b{version.split('.')[-1]} (xllamacpp {version})"


def test_speeds_are_measured_several_times(loaded):
    found = loaded.speed(prompt=64, new=4, seconds=0.01)
    assert (found.prompt_tokens, found.new_tokens) == (64, 4)
    assert len(found.prompt) == len(found.decode) >= 3 and min(*found.prompt, *found.decode) > 0


def test_what_is_timed_is_cut_to_the_context(tmp_path):
    with LlamaCpp(tiny_gguf.gpt2(tmp_path / "model.gguf").path) as model:
        found = model.speed(prompt=1000, new=16, seconds=0.01)
    assert (found.prompt_tokens, found.new_tokens) == (tiny_gguf.CONTEXT - 16, 16)


def test_an_encoder_writes_no_tokens(tmp_path):
    with LlamaCpp(tiny_gguf.bert(tmp_path / "model.gguf").path) as model:
        found = model.speed(prompt=16, seconds=0.01)
    assert len(found.prompt) >= 3 and (found.new_tokens, found.decode) == (0, [])
