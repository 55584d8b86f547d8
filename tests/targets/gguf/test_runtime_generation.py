"""Generation, token by token, and the tokenizer of the file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgecc.errors import UsageError
from edgecc.targeting.generation import Sampling
from edgecc.targets.gguf.runtime.llama_cpp import LlamaCpp
from edgecc.targets.gguf.runtime.metrics import first_difference
from tests.targets.gguf import tiny_gguf
from tests.targets.gguf.tiny_gguf import BEGIN, END, Tiny, greedy


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return tiny_gguf.llama(tmp_path_factory.mktemp("llama") / "model.gguf", tokenizer=True)


@pytest.fixture(scope="module")
def model(tiny: Tiny) -> Iterator[LlamaCpp]:
    with LlamaCpp(tiny.path) as loaded:
        yield loaded


def test_greedy_tokens_are_those_of_pytorch(tiny, model):
    pieces = list(model.generate([1, 2, 3], limit=24))
    assert first_difference(greedy(tiny, [1, 2, 3], 24), [p.token for p in pieces]) is None
    assert [p.stop for p in pieces] == [""] * 23 + ["limit"]


def test_a_text_is_a_prompt_too(tiny, model):
    found = [p.token for p in model.generate("cat", limit=8)]
    assert found == greedy(tiny, [BEGIN, *b"cat"], 8)


def test_pieces_come_one_by_one(model):
    """Taking two of a million is quick, and another call may follow."""
    pieces = model.generate([5], limit=1_000_000)
    first, second = next(pieces).token, next(pieces).token
    assert [first, second] == [p.token for p in model.generate([5], limit=2)]


def test_another_call_breaks_a_generation_off(model):
    pieces = model.generate([5], limit=4)
    next(pieces)
    model.logits([1])
    with pytest.raises(UsageError, match="broken off by another call"):
        next(pieces)


def test_it_stops_where_the_context_is_full(tiny, model):
    prompt = list(range(tiny_gguf.CONTEXT - 2))
    pieces = list(model.generate(prompt, limit=10))
    # the context holds two more tokens, and one follows the last of them
    assert [p.token for p in pieces] == greedy(tiny, prompt, 3)
    assert pieces[-1].stop == "context"


def test_it_stops_at_the_token_that_ends_a_text(tiny, model, tmp_path):
    first = next(model.generate([7], limit=1)).token

    def likely_end(weights):
        weights["output.weight"][END] = 50 * weights["output.weight"][first]

    with LlamaCpp(tiny_gguf.llama(tmp_path / "model.gguf", tokenizer=True, change=likely_end).path) as ending:
        (piece,) = ending.generate([7], limit=10)
    assert (piece.token, piece.text, piece.stop) == (END, "", "end")


def test_text_comes_in_whole_characters(model):
    """The tokens are bytes, so most of them are part of no character: each broken one is a replacement character."""
    pieces = list(model.generate("é", limit=32))
    data = bytes(p.token for p in pieces)
    assert "".join(p.text for p in pieces) == data.decode(errors="replace")


def test_a_file_without_a_tokenizer_gives_ids_alone(tmp_path):
    tiny = tiny_gguf.llama(tmp_path / "model.gguf")
    with LlamaCpp(tiny.path) as model:
        pieces = list(model.generate([3], limit=6))
        assert [p.token for p in pieces] == greedy(tiny, [3], 6)
        assert {p.text for p in pieces} == {None}
        with pytest.raises(UsageError, match="the file holds no tokenizer"):
            next(model.generate("text"))
        with pytest.raises(UsageError, match="the file holds no tokenizer"):
            model.detokenize([1])


def test_a_seed_repeats_a_generation_and_another_does_not(model):
    def drawn(seed: int) -> list[int]:
        return [p.token for p in model.generate([1], limit=16, sampling=Sampling(temperature=1.5, seed=seed))]

    assert drawn(3) == drawn(3) != drawn(4)


def test_the_only_token_left_is_the_likeliest(tiny, model):
    for sampling in (Sampling(2.0, top_k=1), Sampling(2.0, top_p=1e-6)):
        assert [p.token for p in model.generate([1], limit=8, sampling=sampling)] == greedy(tiny, [1], 8)


def test_texts_become_the_tokens_of_their_bytes(model):
    text = "cat é\n"
    assert model.tokenize(text) == [BEGIN, *text.encode()]
    assert model.tokenize(text, special=False) == list(text.encode())
    assert model.tokenize("a<|end|>") == [BEGIN, ord("a"), END]
    assert model.tokenize("<|end|>", special=False) == list(b"<|end|>")
    assert model.detokenize(list(text.encode())) == text
    long = "x" * 5000
    assert model.detokenize(model.tokenize(long, special=False)) == long


def test_word_pieces_are_found(tmp_path):
    with LlamaCpp(tiny_gguf.bert(tmp_path / "model.gguf").path) as model:
        words = [tiny_gguf.WORD_PIECES[i] for i in model.tokenize("The cats sat on it")]
    assert words == ["[CLS]", "▁the", "▁cat", "s", "▁sat", "▁on", "[UNK]", "[SEP]"]


def test_an_encoder_generates_nothing(tmp_path: Path):
    with LlamaCpp(tiny_gguf.bert(tmp_path / "model.gguf").path) as model, pytest.raises(UsageError, match="gives embeddings and no logits"):
        next(model.generate([1]))
