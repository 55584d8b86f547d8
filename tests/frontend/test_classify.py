"""Files are told apart by their bytes; what is no model is named for what it is."""

from __future__ import annotations

import json
import pickle
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from edgecc.errors import UsageError
from edgecc.frontend.classify import Kind, classify
from edgecc.ir.pickle_scan import scan_pickle
from tests.frontend.archives import Command, save


def _weights() -> dict[str, torch.Tensor]:
    return torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).state_dict()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int8])
def test_a_state_dict_is_weights_in_both_layouts(tmp_path: Path, zipped: bool, dtype: torch.dtype) -> None:
    weights = OrderedDict((k, v.to(dtype)) for k, v in _weights().items())
    torch.save(weights, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    assert classify(tmp_path / "w.pt").kind is Kind.WEIGHTS


def test_a_checkpoint_of_plain_values_and_parameters_is_weights(tmp_path: Path) -> None:
    layer = torch.nn.Linear(2, 2)
    content = {"epoch": 3, "name": "a", "state_dict": layer.state_dict(), "weight": layer.weight, "size": torch.Size([2])}
    torch.save(content, tmp_path / "w.pt")
    assert classify(tmp_path / "w.pt").kind is Kind.WEIGHTS


@pytest.mark.parametrize("zipped", [True, False])
def test_a_whole_module_is_a_pickle_and_its_classes_are_named(tmp_path: Path, zipped: bool) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "m.pt", _use_new_zipfile_serialization=zipped)
    found = classify(tmp_path / "m.pt")
    assert found.kind is Kind.PICKLE
    assert "torch.nn.modules.linear.Linear" in found.dangers


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_calls_the_shell_is_named_and_not_run(tmp_path: Path, protocol: int) -> None:
    marker = tmp_path / "marker"
    (tmp_path / "m.pt").write_bytes(pickle.dumps(Command(f"touch '{marker}'"), protocol=protocol))
    found = classify(tmp_path / "m.pt")
    assert found.kind is Kind.PICKLE
    assert any("system" in danger for danger in found.dangers)
    assert not marker.exists()


def test_safetensors(tmp_path: Path) -> None:
    save_file(_weights(), tmp_path / "w.bin")
    assert classify(tmp_path / "w.bin").kind is Kind.SAFETENSORS


def test_an_exported_program_and_torchscript(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "s.pt"))
    assert classify(tmp_path / "s.pt").kind is Kind.TORCHSCRIPT
    assert classify(save(tmp_path / "e.pt2")).kind is Kind.EXPORTED


def test_a_hugging_face_directory(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    assert classify(tmp_path).kind is Kind.HUGGING_FACE


def test_a_missing_file_suggests_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "resnet.pt").touch()
    with pytest.raises(UsageError, match=r"did you mean 'resnet\.pt'"):
        classify(tmp_path / "resnett.pt")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.pt", b"", "is empty"),
        ("a.pt", b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer"),
        ("a.pt", b"<!DOCTYPE html><html>", "a web page"),
        ("a.gguf", b"GGUF\x03\x00\x00\x00", "a GGUF file"),
        ("a.tflite", b"\x1c\x00\x00\x00TFL3", "TensorFlow Lite"),
        ("a.onnx", b"\x08\x07\x12\x07pytorch", "an ONNX model"),
        ("a.py", b"def _private(): pass\ndef small(): pass", r"is Python source[\s\S]*a\.py:small"),
        ("a.pt", b"PK\x03\x04" + bytes(100), "damaged or truncated zip"),
        ("a.safetensors", (10**6).to_bytes(8, "little") + b'{"a"', "truncated safetensors"),
        ("a.safetensors", (8).to_bytes(8, "little") + b'{"a": 1,' + bytes(4), "header is damaged"),
        ("a.pt", b"\x80\x02ctorch\n", "no model file"),
    ],
)
def test_what_is_no_model_is_named(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=said):
        classify(tmp_path / name)


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes_are_a_usage_error(tmp_path: Path, seed: int) -> None:
    (tmp_path / "a.pt").write_bytes(np.random.default_rng(seed).bytes(4096))
    with pytest.raises(UsageError):
        classify(tmp_path / "a.pt")


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.99])
def test_truncated_zip_archives_are_a_usage_error(tmp_path: Path, kept: float) -> None:
    torch.save(_weights(), tmp_path / "w.pt")
    for path in (tmp_path / "w.pt", save(tmp_path / "e.pt2")):
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * kept)])
        with pytest.raises(UsageError, match="truncated"):
            classify(path)


def test_directories_that_are_no_model_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds nothing"):
        classify(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(UsageError, match="output directory of edgecc"):
        classify(tmp_path)


def test_numpy_arrays_are_no_model(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros(2))
    with pytest.raises(UsageError, match="NumPy arrays"):
        classify(tmp_path / "a.npz")


# -- the scan of opcodes


@pytest.mark.parametrize("value", [[1, "a", {"b": None}], (1.5, b"x"), {"nested": {"deep": [True]}}])
@pytest.mark.parametrize("protocol", range(3))
def test_plain_values_name_nothing_dangerous(value: Any, protocol: int) -> None:
    assert scan_pickle(pickle.dumps(value, protocol=protocol)).suspicious in ((), ("_codecs.encode",))


def _stack_global(*pushes: bytes) -> bytes:
    return b"\x80\x04" + b"".join(pushes) + b"\x93."


def _short(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


@pytest.mark.parametrize(
    "data",
    [
        _stack_global(_short("os"), _short("system")),
        _stack_global(_short("os"), b"\x94", _short("system"), b"\x94"),
        _stack_global(_short("os"), b"\x94", b"0", _short("system"), b"\x94", b"0", b"h\x00", b"h\x01"),
        b"cos\nsystem\n.",
        b"(S'x'\nios\nsystem\n.",
    ],
    ids=["literals", "memoized", "from the memo", "GLOBAL", "INST"],
)
def test_every_spelling_of_a_name_is_found(data: bytes) -> None:
    assert scan_pickle(data).suspicious == ("os.system",)


@pytest.mark.parametrize(
    "data",
    [
        _stack_global(b"Nh\x00", _short("system")),
        _stack_global(_short("torch"), _short("Size"), b"0", _short("x"), b"0", b"]"),
        _stack_global(_short("collections"), b"\x94", b"0", _short("a"), b"q\x000", b"(", b"h\x00", _short("OrderedDict"), b"t"),
        b"\x80\x02\x82\x01.",
    ],
    ids=["unset memo", "a list", "a tuple", "extension registry"],
)
def test_a_name_that_cannot_be_told_is_unresolved(data: bytes) -> None:
    scan = scan_pickle(data)
    assert scan.unresolved
    assert not scan.holds_only_weights


def test_a_memo_entry_that_is_written_again_counts_as_the_new_one() -> None:
    data = _stack_global(_short("torch"), b"q\x000", _short("os"), b"q\x000", b"h\x00", _short("system"))
    assert scan_pickle(data).suspicious == ("os.system",)


def test_the_loader_of_nested_pickles_is_not_among_the_weights() -> None:
    assert not scan_pickle(b"ctorch.storage\n_load_from_bytes\n.").holds_only_weights
