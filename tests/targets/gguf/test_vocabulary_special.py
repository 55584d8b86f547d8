"""Special tokens, what is put around a text, chat templates, and the older files of a tokenizer."""

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

WORDS = ["low lower lowest", "new newer newest", "it's 12345 we'll", "def f(x):\n    return x"]
NAMES = {"bos_token": "<s>", "eos_token": "</s>"}
ID = "tokenizer.ggml.{}_token_id"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """<s>, </s>, <pad>, <|eot_id|>, and the bytes."""
    return host.train_bytes(host.pre_tokenizers()["gpt-2"], WORDS, size=275, special=("<s>", "</s>", "<pad>", "<|eot_id|>"))


def _files(directory: Path, **contents: Any) -> None:
    for name, content in contents.items():
        (directory / f"{name}.json").write_text(json.dumps(content))


def _keys(directory: Path, rows: int = 280) -> Any:
    return read_vocabulary(directory, rows).keys


def _around(file: Path) -> list[int]:
    """What llama.cpp puts around `low`."""
    (bare,), _ = tokenize(file, ["low"])
    (whole,), _ = tokenize(file, ["low"], special=True)
    at = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    return whole[:at] + whole[at + len(bare) :]


def test_special_tokens_are_named_by_text_or_by_dictionary_or_by_the_configuration(tokenizer: Any, tmp_path: Path) -> None:
    directory = host.save(tmp_path, tokenizer, {"bos_token": {"content": "<s>", "special": True}, "pad_token": "<pad>"})
    _files(directory, config={"eos_token_id": 1, "pad_token_id": 0}, special_tokens_map={"sep_token": "</s>"})
    keys = _keys(directory)
    assert [keys[ID.format(role)] for role in ("bos", "eos", "padding", "seperator", "eot")] == [0, 1, 2, 1, 3]
    assert ID.format("mask") not in keys


def test_the_second_end_of_the_generation_configuration_ends_a_turn(tmp_path: Path) -> None:
    other = host.train_bytes(host.pre_tokenizers()["gpt-2"], WORDS, size=275, special=("<s>", "</s>", "<turn_over>"))
    directory = host.save(tmp_path, other, NAMES)
    _files(directory, generation_config={"eos_token_id": [1, 2]})
    keys = _keys(directory)
    assert (keys[ID.format("eos")], keys[ID.format("eot")]) == (1, 2)


def test_what_llama_cpp_assumes_where_no_token_is_named_is_noted(tokenizer: Any, tmp_path: Path) -> None:
    directory = host.save(tmp_path, tokenizer)
    assert "llama.cpp takes its own defaults: bos 11, eos 11" in read_vocabulary(directory, 280).notes[-1]
    assert not read_vocabulary(host.save(tmp_path, tokenizer, NAMES), 280).notes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("template", "flags"),
    [
        ("$A", {}),
        ("<s> $A", {}),
        ("<s> $A </s>", {}),
        ("$A", {"add_bos_token": True}),
        ("$A", {"add_bos_token": True, "add_eos_token": True}),
        ("<s> $A", {"add_bos_token": False}),
    ],
)
def test_llama_cpp_puts_around_a_text_what_transformers_does(template: str, flags: dict[str, bool], tokenizer: Any, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed (pip install 'edgecc[llm]')")
    from tokenizers import Tokenizer, processors

    changed = Tokenizer.from_str(tokenizer.to_str())
    changed.post_processor = processors.TemplateProcessing(single=template, pair=f"{template} $B", special_tokens=[("<s>", 0), ("</s>", 1)])
    directory = host.save(tmp_path / "d", changed, {**NAMES, **flags, "tokenizer_class": "PreTrainedTokenizerFast"})
    file = host.vocabulary_file(directory, 280, tmp_path / "v.gguf")
    wanted = transformers.AutoTokenizer.from_pretrained(directory, local_files_only=True)("low")["input_ids"]
    (found,), _ = tokenize(file, ["low"], special=True)
    assert found == wanted
    said = any("tokenizer_config.json says" in note for note in read_vocabulary(directory, 280).notes)
    assert said is bool(flags)  # each of these flags says what the post-processor does not do


def test_more_than_one_token_before_a_text_is_noted(tokenizer: Any, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, processors

    changed = Tokenizer.from_str(tokenizer.to_str())
    special = [("<s>", 0), ("<pad>", 2)]
    changed.post_processor = processors.TemplateProcessing(single="<s> <pad> $A", pair="$A $B", special_tokens=special)
    directory = host.save(tmp_path / "d", changed, NAMES)
    assert "the tokenizer puts the tokens [0, 2] before and [] after a text" in " ".join(read_vocabulary(directory, 280).notes)
    assert _around(host.vocabulary_file(directory, 280, tmp_path / "v.gguf")) == [0]


def test_chat_templates_of_the_configuration_and_of_files(tokenizer: Any, tmp_path: Path) -> None:
    directory = host.save(tmp_path, tokenizer, {"chat_template": "{{ one }}"})
    assert _keys(directory)["tokenizer.chat_template"] == "{{ one }}"
    named = [{"name": "default", "template": "{{ d }}"}, {"name": "Tool Use", "template": "{{ t }}"}]
    keys = _keys(host.save(tmp_path, tokenizer, {"chat_template": named}))
    assert keys["tokenizer.chat_template"] == "{{ d }}"
    assert keys["tokenizer.chat_templates"] == ["tool_use"]
    assert keys["tokenizer.chat_template.tool_use"] == "{{ t }}"
    (directory / "chat_template.jinja").write_text("{{ f }}")
    (directory / "additional_chat_templates").mkdir()
    (directory / "additional_chat_templates/rag.jinja").write_text("{{ r }}")
    keys = _keys(directory)
    assert keys["tokenizer.chat_template"] == "{{ f }}"
    assert keys["tokenizer.chat_templates"] == ["rag", "tool_use"]
    assert keys["tokenizer.chat_template.rag"] == "{{ r }}"


def test_vocabulary_and_merges_without_tokenizer_json(tokenizer: Any, tmp_path: Path) -> None:
    spec = json.loads(tokenizer.to_str())
    _files(tmp_path, vocab=spec["model"]["vocab"], tokenizer_config={"tokenizer_class": "GPT2Tokenizer", **NAMES})
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(m) for m in spec["model"]["merges"]) + "\n")
    host.assert_same_tokens(host.vocabulary_file(tmp_path, 280, tmp_path / "v.gguf"), tokenizer, WORDS)
    _files(tmp_path, tokenizer_config={"tokenizer_class": "WhisperTokenizer"})
    with pytest.raises(UnsupportedError, match=r"merges\.txt of WhisperTokenizer are not read without tokenizer\.json"):
        read_vocabulary(tmp_path, 280)


def test_added_tokens_of_the_configuration_count(tokenizer: Any, tmp_path: Path) -> None:
    added = {"275": {"content": "<tool>", "special": False}, "276": {"content": "<|x|>", "special": True}}
    directory = host.save(tmp_path, tokenizer, {**NAMES, "added_tokens_decoder": added})
    keys = _keys(directory, 278)
    assert keys["tokenizer.ggml.tokens"][275:] == ["<tool>", "<|x|>", "[PAD277]"]
    assert keys["tokenizer.ggml.token_type"][275:] == [4, 3, 5]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer_config", {"added_tokens_decoder": {"a": {"content": "<tool>"}}}),
        ("tokenizer_config", {"added_tokens_decoder": {"275": None}}),
        ("added_tokens", {"<tool>": "x"}),
        ("added_tokens", {"<tool>": None}),
        ("tokenizer", {"model": {"type": "BPE"}, "added_tokens": [{}]}),
        ("tokenizer", {"model": {"type": "BPE"}, "added_tokens": True}),
    ],
)
def test_damaged_added_tokens_are_refused(name: str, content: Any, tokenizer: Any, tmp_path: Path) -> None:
    _files(host.save(tmp_path, tokenizer), **{name: content})
    with pytest.raises(UsageError, match="the added tokens of the tokenizer are damaged"):
        read_vocabulary(tmp_path, 280)


@pytest.mark.slow
def test_a_word_list_of_bert_has_the_tokens_of_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed (pip install 'edgecc[llm]')")
    (tmp_path / "vocab.txt").write_text((host.minilm() / "vocab.txt").read_text(encoding="utf-8"), encoding="utf-8")
    _files(tmp_path, tokenizer_config={"tokenizer_class": "BertTokenizer", "do_lower_case": True})
    truth = transformers.BertTokenizer.from_pretrained(host.minilm(), local_files_only=True)
    file = host.vocabulary_file(tmp_path, 30522, tmp_path / "v.gguf")
    texts = host.sentences(200)
    assert tokenize(file, texts, special=True)[0] == [truth(text)["input_ids"] for text in texts]


@pytest.mark.parametrize(("lower", "accents"), [(True, None), (False, None), (False, True), (True, False)])
def test_case_and_accents_of_wordpiece(lower: bool, accents: bool | None, tmp_path: Path) -> None:
    tokens = ["[UNK]", "[CLS]", "[SEP]", "caf", "##e", "##\xe9", "Caf", "na", "##i", "##\xef", "##ve", "!", "\u4f60", "\u597d"]
    (tmp_path / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    _files(tmp_path, tokenizer_config={"do_lower_case": lower, "strip_accents": accents})
    file = host.vocabulary_file(tmp_path, 14, tmp_path / "v.gguf")
    texts = ["Caf\xe9!", "caf\xe9 na\xefve", "CAFE", "\u4f60\u597d cafe\u0301", "zzz caf"]
    host.assert_same_tokens(file, read_tokenizer(tmp_path).tokenizer, texts, special=True)
    assert check_vocabulary(file, tmp_path, texts) == []


def test_a_word_list_without_its_special_tokens_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    with pytest.raises(UsageError, match=r"vocab\.txt lacks \[UNK\], \[CLS\], \[SEP\]"):
        read_vocabulary(tmp_path, 2)


def test_two_tokens_of_one_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(["[UNK]", "[CLS]", "[SEP]", "a", "##\u2581a"]) + "\n", encoding="utf-8")
    with pytest.raises(UnsupportedError, match="tokens 3 and 4 both are '\u2581a'"):
        read_vocabulary(tmp_path, 5)
