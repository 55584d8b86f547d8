"""SentencePiece vocabularies: llama.cpp gives the tokens of the tokenizers library, from tokenizer.json and from tokenizer.model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgecc.errors import UnsupportedError, UsageError
from edgecc.frontend.tokenizer import read_tokenizer
from edgecc.targets.gguf.vocabulary import check_vocabulary, read_vocabulary, tokenize
from tests.targets.gguf import vocabulary_host as host

pytest.importorskip("tokenizers", reason="tokenizers is not installed (pip install 'edgecc[gguf]')")

SPACE = "\u2581"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
SPECIAL = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)]
BYTES = [(text, 0.0, BYTE) for text in host.BYTES]


def _steps(prefix: bool, metaspace: bool) -> tuple[Any, Any]:
    """Normalizer and pre-tokenizer: as older conversions of SentencePiece write them, or as newer ones do."""
    from tokenizers import normalizers, pre_tokenizers

    if metaspace:
        return None, pre_tokenizers.Metaspace(prepend_scheme="first" if prefix else "never", split=False)
    steps = [normalizers.Prepend(SPACE)] if prefix else []
    return normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)]), None


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return host.corpus()


@pytest.fixture(scope="module")
def trained(texts: list[str]) -> Any:
    return host.train_pieces(*_steps(prefix=True, metaspace=False), texts)


@pytest.mark.slow
@pytest.mark.parametrize("metaspace", [False, True], ids=["normalizer", "metaspace"])
@pytest.mark.parametrize("prefix", [False, True], ids=["bare", "prefix"])
def test_a_tokenizer_trained_on_the_spot_has_the_tokens_of_hugging_face(
    prefix: bool, metaspace: bool, texts: list[str], tmp_path: Path
) -> None:
    tokenizer = host.train_pieces(*_steps(prefix, metaspace), texts)
    directory = host.save(tmp_path / "d", tokenizer, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})
    vocabulary = read_vocabulary(directory, 1210)
    assert vocabulary.keys["tokenizer.ggml.model"] == "llama"
    assert vocabulary.keys["tokenizer.ggml.add_space_prefix"] is prefix
    file = host.vocabulary_file(directory, 1210, tmp_path / "v.gguf")
    assert check_vocabulary(file, directory, texts) == []
    same = [text for text in texts if not text.startswith(" ")] if prefix and metaspace else texts
    host.assert_same_tokens(file, tokenizer, same, special=True)


def test_a_first_space_that_llama_cpp_adds_once_more_is_noted(trained: Any, tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(trained.to_str())
    tokenizer.normalizer, tokenizer.pre_tokenizer = _steps(prefix=True, metaspace=True)
    directory = host.save(tmp_path / "d", tokenizer)
    notes = read_vocabulary(directory, 1200).notes
    assert notes[:2] == (
        "text that starts with a space gets one more from llama.cpp",
        "text after a special token gets a space from llama.cpp",
    )
    file = host.vocabulary_file(directory, 1200, tmp_path / "v.gguf")
    (found,), _ = tokenize(file, [" a"])
    assert len(found) == len(tokenizer.encode(" a", add_special_tokens=False).ids) + 1


@pytest.mark.parametrize("prefix", [False, True], ids=["bare", "prefix"])
def test_a_sentencepiece_model_alone_has_the_same_tokens(prefix: bool, trained: Any, texts: list[str], tmp_path: Path) -> None:
    """The file is made of the trained tokenizer: a piece for each token, scored by the place of its merge."""
    from tokenizers import Tokenizer

    spec = json.loads(trained.to_str())
    ranks = {"".join(merge): -float(i) for i, merge in reversed(list(enumerate(spec["model"]["merges"])))}
    ordinary = sorted(spec["model"]["vocab"], key=spec["model"]["vocab"].get)[259:]
    pieces = [*SPECIAL, *BYTES, *((t, ranks.get(t, -1e4 - i), NORMAL) for i, t in enumerate(ordinary))]
    (tmp_path / "tokenizer.model").write_bytes(host.sentencepiece_model(pieces, prefix=prefix))
    tokenizer = Tokenizer.from_str(trained.to_str())
    tokenizer.normalizer, _ = _steps(prefix, metaspace=False)
    file = host.vocabulary_file(tmp_path, 1200, tmp_path / "v.gguf")
    host.assert_same_tokens(file, tokenizer, texts, special=True)
    host.assert_same_tokens(file, tokenizer, ["</s> a", "<s>"])


def test_scores_beside_a_tokenizer_json_are_those_of_the_sentencepiece_model(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, normalizers

    pieces = [*SPECIAL, *BYTES, ("ab", -0.5, NORMAL), ("a", -1.5, NORMAL), ("b", -2.5, NORMAL)]
    vocabulary = {text: i for i, (text, _, _) in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("a", "b")], byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    host.save(tmp_path, tokenizer)
    assert read_vocabulary(tmp_path, 262).keys["tokenizer.ggml.scores"][-3:] == [-1.0, -262.0, -263.0]  # type: ignore[index]
    (tmp_path / "tokenizer.model").write_bytes(host.sentencepiece_model(pieces))
    assert read_vocabulary(tmp_path, 262).keys["tokenizer.ggml.scores"][-3:] == [-0.5, -1.5, -2.5]  # type: ignore[index]


def test_merges_that_no_scores_express_are_kept(tmp_path: Path) -> None:
    """`ab` is a token that no merge makes: by scores llama.cpp would make it."""
    from tokenizers import Tokenizer, models, normalizers

    vocabulary = {text: i for i, text in enumerate(["<unk>", *host.BYTES, SPACE, "a", "b", "c", "ab", "bc", "abc"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("b", "c"), ("a", "bc")], byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    directory = host.save(tmp_path / "d", tokenizer)
    keys = read_vocabulary(directory, 264).keys
    assert (keys["tokenizer.ggml.model"], keys["tokenizer.ggml.pre"]) == ("gpt2", "sarvam-moe")
    file = host.vocabulary_file(directory, 264, tmp_path / "v.gguf")
    texts = ["ab", "abc", "aab abcb\nabab", "\u00e9\u4f60", "  a  b", "x"]
    host.assert_same_tokens(file, tokenizer, texts)
    scored = host.vocabulary_file(directory, 264, tmp_path / "scored.gguf", pre="llama")
    assert tokenize(scored, ["ab"])[0] == [[vocabulary["ab"]]]
    _, pieces = tokenize(file, texts)
    assert [b"".join(row).decode() for row in pieces] == texts


def test_pieces_that_the_user_defined_are_found_with_their_spaces(tmp_path: Path) -> None:
    added = [(f"{SPACE}{SPACE}", 0.0, USER_DEFINED), ("<tool>", 0.0, USER_DEFINED)]
    pieces = [*SPECIAL, *BYTES, *added, *((text, -float(i), NORMAL) for i, text in enumerate([SPACE, "a", "b", "ab"]))]
    (tmp_path / "tokenizer.model").write_bytes(host.sentencepiece_model(pieces, prefix=False))
    file = host.vocabulary_file(tmp_path, len(pieces), tmp_path / "v.gguf")
    assert check_vocabulary(file, tmp_path, ["a<tool>ab", "a  a", "a a"]) == []
    assert tokenize(file, ["a<tool>ab", "a  a", "a a"])[0] == [[262, 260, 264], [262, 259, 262], [262, 261, 262]]


def test_text_comes_back_from_its_tokens(trained: Any, texts: list[str], tmp_path: Path) -> None:
    file = host.vocabulary_file(host.save(tmp_path / "d", trained), 1200, tmp_path / "v.gguf")
    _, pieces = tokenize(file, texts)
    assert [b"".join(row).decode() for row in pieces] == [f" {text}" for text in texts]


def test_byte_tokens_that_lack_are_refused_since_llama_cpp_would_end(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, normalizers

    vocabulary = {text: i for i, text in enumerate(["<unk>", SPACE, "a", "b", "ab"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("a", "b")], unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    with pytest.raises(UnsupportedError, match="has 0 of the 256 byte tokens that"):
        read_vocabulary(host.save(tmp_path / "d", tokenizer), 5)


def test_normalization_that_llama_cpp_lacks_is_refused_with_the_first_text(trained: Any, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, normalizers

    tokenizer = Tokenizer.from_str(trained.to_str())
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), trained.normalizer])
    with pytest.raises(UnsupportedError, match=r"as llama it would give \[.*\] for .*, want \["):
        read_vocabulary(host.save(tmp_path / "d", tokenizer), 1200)


def test_unigram_and_damaged_models_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.model"
    file.write_bytes(host.sentencepiece_model([*SPECIAL, ("a", -1.0, NORMAL)], kind=1))
    with pytest.raises(UnsupportedError, match="is a unigram SentencePiece model, want BPE"):
        read_vocabulary(tmp_path, 10)
    file.write_bytes(host.sentencepiece_model([*SPECIAL, *BYTES, ("a", -1.0, NORMAL)], suffix=True))
    with pytest.raises(UnsupportedError, match="puts spaces at the end of words"):
        read_vocabulary(tmp_path, 260)
    whole = host.sentencepiece_model([*SPECIAL, *BYTES])
    for data in (whole[:-3], whole[:1], b"\xff" * 40, b"", b"IQ== 0\nIg== 1\n"):
        file.write_bytes(data)
        with pytest.raises(UsageError, match=r"tokenizer\.model .*SentencePiece model"):
            read_tokenizer(tmp_path)
