"""Vocabularies that llama.cpp reads as the tokenizers library reads the directory: byte-level BPE and WordPiece, real and trained on the spot."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from edgecc.errors import ContractError, MissingToolError, RefusedError, UnsupportedError, UsageError
from edgecc.frontend.tokenizer import read_tokenizer
from edgecc.targets.gguf.vocabulary import accept, check_vocabulary, no_vocabulary, read_vocabulary, tokenize
from edgecc.targets.gguf.vocabulary.pretokenizers import NAMES, PRE_TOKENIZERS, PreTokenizer
from edgecc.targets.gguf.vocabulary.probes import PROBES
from edgecc.targets.gguf.writer import write
from tests.targets.gguf import vocabulary_host as host

pytest.importorskip("tokenizers", reason="tokenizers is not installed (pip install 'edgecc[gguf]')")
pytest.importorskip("gguf", reason="gguf is not installed (pip install 'edgecc[gguf]')")

#: What llama.cpp does otherwise than Hugging Face, with the Unicode tables it has. The texts are probes.
KNOWN = {
    "bert": {"a\fb\vc", "a\x85b"},  # these are spaces in llama.cpp, and nothing in Hugging Face's normalizer
    "granite-embed-multi-97m": {"\xc9COLE \xe9cole"},  # letters beyond A to Z are of both cases
}
WORDS = ["low lower lowest", "new newer newest", "it's 12345 we'll", "def f(x):\n    return x", "a  b   c\n\n\td"]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return host.corpus()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE of 290 tokens that splits as GPT-2."""
    tokenizer = host.train_bytes(host.pre_tokenizers()["gpt-2"], WORDS, size=290)
    return host.save(tmp_path_factory.mktemp("small"), tokenizer, {"bos_token": "<s>", "eos_token": "</s>"})


def _changed(source: Path, directory: Path, change: Any) -> Path:
    """A copy of a directory whose tokenizer.json was changed."""
    spec = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    change(spec)
    directory.mkdir(exist_ok=True)
    (directory / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    return directory


def _tokens(directory: Path, ids: list[int]) -> list[str]:
    return [read_tokenizer(directory).tokenizer.id_to_token(i) for i in ids]


@pytest.mark.slow
def test_pyllama_has_the_tokens_of_hugging_face(texts: list[str], tmp_path: Path) -> None:
    directory = host.pyllama()
    file = host.vocabulary_file(directory, 4096, tmp_path / "v.gguf")
    host.assert_same_tokens(file, read_tokenizer(directory).tokenizer, texts)
    assert check_vocabulary(file, directory, texts) == []


def test_a_text_comes_back_from_its_tokens(texts: list[str], tmp_path: Path) -> None:
    file = host.vocabulary_file(host.pyllama(), 4096, tmp_path / "v.gguf")
    _, pieces = tokenize(file, texts)
    assert [b"".join(row).decode() for row in pieces] == texts


@pytest.mark.slow
def test_minilm_has_the_tokens_of_hugging_face_but_for_unicode_that_llama_cpp_lacks(texts: list[str], tmp_path: Path) -> None:
    directory = host.minilm()
    file = host.vocabulary_file(directory, 30522, tmp_path / "v.gguf")
    differences = check_vocabulary(file, directory, texts)
    # syllables of Hangul, and vowel signs of Devanagari and Bengali, lose what llama.cpp takes for accents
    others = {d.text for d in differences} - KNOWN["bert"]
    assert all(any("\u0900" <= c <= "\u09ff" or "\uac00" <= c <= "\ud7a3" for c in text) for text in others)
    assert len(others) == 4
    assert "6 of" in accept(differences, directory, len(texts))[0]


@pytest.mark.slow
def test_minilm_puts_cls_and_sep_around_a_text(tmp_path: Path) -> None:
    directory = host.minilm()
    file = host.vocabulary_file(directory, 30522, tmp_path / "v.gguf")
    tokenizer = read_tokenizer(directory).tokenizer
    host.assert_same_tokens(file, tokenizer, [*host.sentences(50), "[MASK] and [SEP]"], special=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt-2", "llama-bpe", "qwen2", "starcoder", "deepseek-v3", "deepseek-coder", "falcon", "bloom"])
def test_a_tokenizer_trained_on_the_spot_has_the_tokens_of_hugging_face(name: str, texts: list[str], tmp_path: Path) -> None:
    tokenizer = host.train_bytes(host.pre_tokenizers()[name], texts)
    directory = host.save(tmp_path / name, tokenizer)
    file = host.vocabulary_file(directory, tokenizer.get_vocab_size(), tmp_path / "v.gguf")
    host.assert_same_tokens(file, tokenizer, texts)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt-4o", "tekken"])
def test_where_llama_cpp_has_no_exact_counterpart_only_other_letters_than_ascii_differ(name: str, texts: list[str], tmp_path: Path) -> None:
    tokenizer = host.train_bytes(host.pre_tokenizers()[name], [*texts, *PROBES * 8], size=3000)
    directory = host.save(tmp_path / name, tokenizer)
    vocabulary = read_vocabulary(directory, tokenizer.get_vocab_size())
    write(tmp_path / "v.gguf", {"general.architecture": "llama", **vocabulary.keys}, [], [])
    differences = check_vocabulary(tmp_path / "v.gguf", directory, texts)
    assert any("for both cases" in note for note in vocabulary.notes)
    assert differences
    assert all(not d.text.isascii() for d in differences)
    assert accept(differences, directory, len(texts))


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("gpt-2", "trillion"),  # GPT-2's split where nothing tidies spaces
        ("llama-bpe", "dbrx"),  # Llama 3's split where merges count
        ("qwen2", "qwen2"),
        ("gpt-4o", "granite-embed-multi-97m"),  # gpt-4o itself parts words at combining marks
        ("tekken", "tekken"),
        ("starcoder", "smollm"),
        ("deepseek-v3", "deepseek-v3"),
        ("deepseek-coder", "deepseek-coder"),
        ("falcon", "falcon"),
        ("bloom", "poro-chat"),
    ],
)
def test_the_split_decides_the_name(name: str, found: str, tmp_path: Path) -> None:
    tokenizer = host.train_bytes(host.pre_tokenizers()[name], WORDS, size=290)
    assert read_vocabulary(host.save(tmp_path / "d", tokenizer), 290).keys["tokenizer.ggml.pre"] == found


def test_a_tokenizer_that_tidies_spaces_gets_a_name_that_does(tmp_path: Path) -> None:
    tokenizer = host.train_bytes(host.pre_tokenizers()["gpt-2"], WORDS, size=290)
    directory = host.save(tmp_path / "d", tokenizer, {"clean_up_tokenization_spaces": True})
    assert read_vocabulary(directory, 290).keys["tokenizer.ggml.pre"] == "gpt-2"


@pytest.mark.slow
def test_whole_words_are_kept_where_merges_would_not_make_them(tmp_path: Path) -> None:
    """`ignore_merges` of Llama 3: a word that is a token is taken whole though no merge makes it."""

    def change(spec: dict[str, Any], ignore: bool) -> None:
        spec["model"]["ignore_merges"] = ignore
        spec["model"]["vocab"]["lowernew"] = 290

    tokenizer = host.train_bytes(host.pre_tokenizers()["llama-bpe"], WORDS, size=290)
    source = host.save(tmp_path / "source", tokenizer)
    for ignore, name in ((True, "llama-bpe"), (False, "dbrx")):
        directory = _changed(source, tmp_path / name, lambda spec, ignore=ignore: change(spec, ignore))
        file = host.vocabulary_file(directory, 291, tmp_path / f"{name}.gguf")
        assert read_vocabulary(directory, 291).keys["tokenizer.ggml.pre"] == name
        assert (tokenize(file, ["lowernew"])[0][0] == [290]) is ignore
        host.assert_same_tokens(file, read_tokenizer(directory).tokenizer, ["lowernew", "lower new", *WORDS])


@pytest.mark.slow
@pytest.mark.parametrize("pre", PRE_TOKENIZERS, ids=lambda p: p.name)
def test_each_name_splits_in_llama_cpp_as_its_patterns_say(pre: PreTokenizer, texts: list[str], tmp_path: Path) -> None:
    tokenizer = host.train_bytes(pre.build(), [*texts, *PROBES * 8], size=3000, ignore_merges=pre.whole_words)
    directory = host.save(tmp_path / "d", tokenizer)
    file = host.vocabulary_file(directory, tokenizer.get_vocab_size(), tmp_path / "v.gguf", pre=pre.name)
    differing = {d.text for d in check_vocabulary(file, directory, texts)}
    assert bool(differing) is bool(pre.departs)
    assert not any(text.isascii() for text in differing)


def test_added_tokens_are_found_in_a_text_and_keep_their_kind(tmp_path: Path) -> None:
    from tokenizers import AddedToken

    tokenizer = host.train_bytes(host.pre_tokenizers()["qwen2"], WORDS, size=290)
    tokenizer.add_special_tokens([AddedToken("<|im_start|>", special=True), AddedToken("<|im_end|>", special=True)])
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False), AddedToken("    ", normalized=False)])
    directory = host.save(tmp_path / "d", tokenizer, {"eos_token": "<|im_end|>"})
    vocabulary = read_vocabulary(directory, 294)
    assert vocabulary.keys["tokenizer.ggml.token_type"][-4:] == [3, 3, 4, 4]  # type: ignore[index]  # CONTROL, USER_DEFINED
    assert vocabulary.keys["tokenizer.ggml.eot_token_id"] == vocabulary.keys["tokenizer.ggml.eos_token_id"] == 291
    file = host.vocabulary_file(directory, 294, tmp_path / "v.gguf")
    host.assert_same_tokens(file, tokenizer, ["<|im_start|>low<tool> lower<|im_end|>\n", "a    b", "<tool><tool>", "<|im_start|"])


def test_rows_beyond_the_tokens_are_unused(small: Path, tmp_path: Path) -> None:
    vocabulary = read_vocabulary(small, 320)
    assert vocabulary.size == 320
    assert vocabulary.keys["tokenizer.ggml.tokens"][-1] == "[PAD319]"  # type: ignore[index]
    assert vocabulary.keys["tokenizer.ggml.token_type"][288:] == [1, 1, *[5] * 30]  # type: ignore[index]
    file = host.vocabulary_file(small, 320, tmp_path / "v.gguf")
    host.assert_same_tokens(file, read_tokenizer(small).tokenizer, [*WORDS, "x [PAD319] y"])


def test_fewer_rows_than_tokens_is_a_mismatch_with_both_numbers(small: Path) -> None:
    with pytest.raises(UsageError, match=r"vocabulary mismatch: .* has 290 tokens, the embedding of the model 289 rows"):
        read_vocabulary(small, 289)


def test_the_same_directory_gives_the_same_keys_in_the_same_order(small: Path) -> None:
    assert list(read_vocabulary(small, 310).keys.items()) == list(read_vocabulary(small, 310).keys.items())


def test_what_no_name_does_is_refused_with_the_first_text(tmp_path: Path) -> None:
    from tokenizers import pre_tokenizers as p

    tokenizer = host.train_bytes(p.ByteLevel(add_prefix_space=True), WORDS, size=290)
    directory = host.save(tmp_path / "d", tokenizer)
    with pytest.raises(
        UnsupportedError, match=r"no pre-tokenizer of llama.cpp splits text .* the nearest is .* gives \[.*\], want \['Ġ"
    ) as caught:
        read_vocabulary(directory, 290)
    assert "target_options.pre_tokenizer=NAME" in caught.value.hint
    assert read_vocabulary(directory, 290, pre="gpt-2").keys["tokenizer.ggml.pre"] == "gpt-2"


def test_a_wrong_name_is_found_by_llama_cpp(small: Path, tmp_path: Path) -> None:
    file = host.vocabulary_file(small, 290, tmp_path / "v.gguf", pre="deepseek-coder")
    differences = check_vocabulary(file, small)
    assert "it's" in {d.text for d in differences}
    with pytest.raises(UnsupportedError, match=r"llama.cpp tokenizes \d+ of 204 texts otherwise .* for .* gives \[.*\] \[.*\], want \["):
        accept(differences, small)
    assert len(accept(differences, small, refuses=False)) == 1


def test_a_normalizer_that_composes_is_noted_and_others_are_refused(small: Path, tmp_path: Path) -> None:
    composing = _changed(small, tmp_path / "a", lambda spec: spec.update(normalizer={"type": "NFC"}))
    vocabulary = read_vocabulary(composing, 290)
    assert any("NFC" in note for note in vocabulary.notes)
    file = host.vocabulary_file(composing, 290, tmp_path / "v.gguf")
    assert check_vocabulary(file, composing) == []
    with pytest.raises(UnsupportedError, match=r"changes text before it splits it \(Lowercase\)"):
        read_vocabulary(_changed(small, tmp_path / "b", lambda spec: spec.update(normalizer={"type": "Lowercase"})), 290)


def test_kinds_without_a_counterpart_are_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    directory = host.save(tmp_path / "d", Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0)], 0, False)))
    with pytest.raises(UnsupportedError, match="of kind Unigram has no counterpart"):
        read_vocabulary(directory, 10)


def test_missing_damaged_and_custom_tokenizers(small: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has no tokenizer; looked for tokenizer\.json, tokenizer\.model, vocab\.json"):
        read_vocabulary(tmp_path, 290)
    (tmp_path / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["tokenization_x.X", null]}}')
    with pytest.raises(RefusedError, match="is Python code"):
        read_vocabulary(tmp_path, 290)
    (tmp_path / "tokenizer.json").write_text((small / "tokenizer.json").read_text(encoding="utf-8")[:-20])
    with pytest.raises(UsageError, match=r"tokenizer\.json cannot be read"):
        read_vocabulary(tmp_path, 290)
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}}')
    with pytest.raises(UsageError, match="damaged, or of a kind that is not known"):
        read_vocabulary(tmp_path, 290)


def test_a_file_that_llama_cpp_does_not_load_is_an_error_with_its_reason(small: Path, tmp_path: Path) -> None:
    file = tmp_path / "v.gguf"
    write(file, {"general.architecture": "llama", **read_vocabulary(small, 290).keys, "tokenizer.ggml.pre": "nonsense"}, [], [])
    with pytest.raises(ContractError, match=r"does not load the vocabulary of .*unknown pre-tokenizer type: 'nonsense'"):
        tokenize(file, ["a"])


@pytest.mark.slow
def test_every_name_that_may_be_given_is_one_of_llama_cpp(small: Path, tmp_path: Path) -> None:
    for name in sorted(NAMES):
        assert tokenize(host.vocabulary_file(small, 290, tmp_path / f"{name}.gguf", pre=name), ["a"])[0] != [[]]


def test_a_name_that_llama_cpp_does_not_have_is_refused_with_the_nearest(small: Path) -> None:
    with pytest.raises(UsageError, match=r"the pre-tokenizer is 'quen2', which llama\.cpp does not have") as caught:
        read_vocabulary(small, 290, pre="quen2")
    assert caught.value.hint == "did you mean 'qwen2'?"


def test_what_lies_in_the_working_directory_is_not_run(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host.vocabulary_file(small, 290, tmp_path / "v.gguf")
    (tmp_path / "edgecc.py").write_text("raise SystemExit('not this one')")
    monkeypatch.chdir(tmp_path)
    assert check_vocabulary(Path("v.gguf"), small, ["it's"]) == []


def test_an_abort_of_llama_cpp_is_reported(tmp_path: Path) -> None:
    """A BERT vocabulary without the token that llama.cpp puts before a text."""
    keys: dict[str, Any] = {"general.architecture": "bert", "tokenizer.ggml.model": "bert", "tokenizer.ggml.tokens": ["[UNK]", "\u2581a"]}
    write(tmp_path / "v.gguf", keys, [], [])
    with pytest.raises(ContractError, match=r"llama\.cpp ended with status -6 .* GGML_ASSERT"):
        tokenize(tmp_path / "v.gguf", ["a"], special=True)


def test_without_llama_cpp_the_install_line_is_given(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = host.vocabulary_file(small, 290, tmp_path / "v.gguf")
    monkeypatch.setitem(sys.modules, "xllamacpp", None)  # what find_spec finds where a package is not installed
    with pytest.raises(MissingToolError) as caught:
        check_vocabulary(file, small)
    assert caught.value.hint == "pip install 'edgecc[gguf]'"


def test_without_a_vocabulary_the_rows_are_named() -> None:
    assert no_vocabulary("llama", 97).keys == {"tokenizer.ggml.model": "no_vocab", "llama.vocab_size": 97}


def test_a_text_in_tokens_is_what_the_difference_shows(small: Path, tmp_path: Path) -> None:
    file = host.vocabulary_file(small, 290, tmp_path / "v.gguf", pre="deepseek-coder")
    (difference,) = check_vocabulary(file, small, ["it's"])
    assert list(difference.found_tokens) == _tokens(small, list(difference.found))
    assert list(difference.wanted_tokens) == _tokens(small, list(difference.wanted))
