"""Text files as samples: windows of a token stream for decoders, sentences for encoders, by the directory's own tokenizer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from edgecc.errors import MissingToolError, UsageError
from edgecc.frontend import text
from edgecc.ir.signature import Dim, Signature, TensorSpec
from tests.targets.gguf import vocabulary_host as host

pytest.importorskip("tokenizers", reason="tokenizers is not installed (pip install 'edgecc[gguf]')")

OUTPUT = (TensorSpec("logits", torch.float32, (1, 8, 50)),)
LINES = ("the cat sat on the mat", "a dog", "", "the dog and the cat and the mat and the end of it all")


def _signature(*inputs: TensorSpec, dims: tuple[Dim, ...] = ()) -> Signature:
    return Signature(inputs, OUTPUT, dims)


def _ids(*shape: int | str, name: str = "input_ids", dtype: torch.dtype = torch.int64) -> TensorSpec:
    return TensorSpec(name, dtype, shape)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE that puts <s> before a text, as Llama 3 does."""
    from tokenizers import pre_tokenizers, processors

    tokenizer = host.train_bytes(pre_tokenizers.ByteLevel(add_prefix_space=False), list(LINES), size=280)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 0)])
    return host.save(tmp_path_factory.mktemp("decoder"), tokenizer)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A WordPiece of whole words, as a vocab.txt of BERT."""
    directory = tmp_path_factory.mktemp("encoder")
    words = dict.fromkeys(word for line in LINES for word in line.split())
    (directory / "vocab.txt").write_text("\n".join(["[UNK]", "[CLS]", "[SEP]", "[PAD]", *words]) + "\n")
    return directory


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("\n".join(LINES), encoding="utf-8")
    return path


def _library(directory: Path) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(directory / "tokenizer.json"))


def test_a_decoder_reads_windows_of_one_stream_without_a_first_token(decoder: Path, file: Path) -> None:
    stream = _library(decoder).encode("\n".join(LINES), add_special_tokens=False).ids
    found = list(text.samples(file, decoder, _signature(_ids(1, 8))))
    assert [s[0].tolist() for s in found] == [[stream[i : i + 8]] for i in range(0, len(stream) - 7, 8)]
    assert found[0][0].dtype == torch.int64


def test_where_the_length_is_dynamic_the_window_is_asked_for_and_kept_in_bounds(decoder: Path, file: Path) -> None:
    signature = _signature(_ids("batch", "seq"), dims=(Dim("batch", 1, 4), Dim("seq", 2, 9)))
    assert [tuple(s[0].shape) for s in text.samples(file, decoder, signature, window=5, limit=2)] == [(1, 5), (1, 5)]
    assert {tuple(s[0].shape) for s in text.samples(file, decoder, signature)} == {(1, 9)}


def test_a_fixed_batch_takes_as_many_windows(decoder: Path, file: Path) -> None:
    stream = _library(decoder).encode("\n".join(LINES), add_special_tokens=False).ids
    first = next(iter(text.samples(file, decoder, _signature(_ids(2, 8)))))
    assert first[0].tolist() == [stream[:8], stream[8:16]]


def test_ids_of_another_name_type_and_rank(decoder: Path, file: Path) -> None:
    found = next(iter(text.samples(file, decoder, _signature(_ids(8, name="x", dtype=torch.int32)))))
    assert found[0].dtype == torch.int32
    assert found[0].shape == (8,)


def test_masks_of_windows_are_ones_and_positions_count(decoder: Path, file: Path) -> None:
    signature = _signature(_ids(1, 8), _ids(1, 8, name="attention_mask"), _ids(1, 8, name="position_ids"))
    _, mask, positions = next(iter(text.samples(file, decoder, signature)))
    assert mask.tolist() == [[1] * 8]
    assert positions.tolist() == [list(range(8))]


def test_an_encoder_reads_a_line_as_a_sentence_padded_to_a_fixed_length(encoder: Path, file: Path) -> None:
    signature = _signature(_ids(1, 10), _ids(1, 10, name="attention_mask"), _ids(1, 10, name="token_type_ids"))
    found = list(text.samples(file, encoder, signature))
    # [CLS] is 1, [SEP] 2, [PAD] 3, and the words follow in the order in which they first stand in the lines
    assert [s[0].tolist()[0] for s in found] == [
        [1, 4, 5, 6, 7, 4, 8, 2, 3, 3],
        [1, 9, 10, 2, 3, 3, 3, 3, 3, 3],
        [1, 4, 10, 11, 4, 5, 11, 4, 8, 2],
    ]
    assert [s[1].sum().item() for s in found] == [8, 4, 10]
    assert not any(s[2].any() for s in found)


def test_a_sentence_keeps_its_length_where_that_is_dynamic(encoder: Path, file: Path) -> None:
    signature = _signature(_ids("b", "s"), _ids("b", "s", name="attention_mask"), dims=(Dim("b", 1), Dim("s", 1, 128)))
    assert [s[0].shape[1] for s in text.samples(file, encoder, signature)] == [8, 4, 16]
    assert [s[0].shape[1] for s in text.samples(file, encoder, signature, window=6)] == [6, 4, 6]


def test_an_encoder_without_a_mask_gets_no_padding(encoder: Path, file: Path) -> None:
    assert [s[0].shape[1] for s in text.samples(file, encoder, _signature(_ids(1, 8)))] == [8, 8]
    with pytest.raises(UsageError, match=r"no line of .* fills the 20 tokens"):
        text.samples(file, encoder, _signature(_ids(1, 20)))


def test_each_iteration_gives_the_same_samples(decoder: Path, file: Path) -> None:
    data = text.samples(file, decoder, _signature(_ids(1, 8)))
    assert [s[0].tolist() for s in data] == [s[0].tolist() for s in data]


def test_pyllama_windows_are_those_of_its_readme() -> None:
    directory = host.pyllama()
    stream = _library(directory).encode(host.HELDOUT.read_text(encoding="utf-8"), add_special_tokens=False).ids
    found = [s[0] for s in text.samples(host.HELDOUT, directory, _signature(_ids(1, 256)), limit=200)]
    assert len(found) == 200
    assert torch.cat(found, 1).tolist() == [stream[: 200 * 256]]


@pytest.mark.slow
def test_pyllama_windows_give_the_perplexity_of_its_readme() -> None:
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(host.pyllama(), local_files_only=True).eval()
    losses = []
    with torch.no_grad():
        for (ids,) in text.samples(host.HELDOUT, host.pyllama(), _signature(_ids(1, 256)), limit=200):
            losses.append(model(ids, labels=ids).loss)
    assert torch.stack(losses).mean().item() == pytest.approx(3.147640, abs=2e-6)  # metrics.txt has six digits


def test_text_that_is_too_short_names_both_lengths(decoder: Path, file: Path) -> None:
    with pytest.raises(UsageError, match=r"shorter than one window: \d+ tokens, want at least 512"):
        text.samples(file, decoder, _signature(_ids(1, 512)))


def test_text_that_is_not_utf8_names_the_byte(decoder: Path, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes(b"caf\xe9 au lait")
    with pytest.raises(UsageError, match="not UTF-8 text: byte 3 is 0xe9"):
        text.samples(tmp_path / "t.txt", decoder, _signature(_ids(1, 4)))


def test_missing_files_are_named(decoder: Path, file: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no\.txt cannot be read"):
        text.samples(tmp_path / "no.txt", decoder, _signature(_ids(1, 4)))
    with pytest.raises(UsageError, match=r"has no tokenizer; looked for tokenizer\.json, tokenizer\.model"):
        text.samples(file, tmp_path, _signature(_ids(1, 4)))


def test_a_model_that_takes_no_tokens_is_refused(decoder: Path, file: Path) -> None:
    for inputs in ([TensorSpec("x", torch.float32, (1, 3))], [_ids(1, 3, 8, 8)], [_ids(1, 4, name="a"), _ids(1, 4, name="b")]):
        with pytest.raises(UsageError, match="text fits a model of one input of token ids"):
            text.samples(file, decoder, _signature(*inputs))


def test_without_the_tokenizers_library_the_install_line_is_given(decoder: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)  # what import finds where a package is not installed
    with pytest.raises(MissingToolError) as caught:
        text.samples(file, decoder, _signature(_ids(1, 4)))
    assert caught.value.hint == "pip install 'edgecc[gguf]'"
