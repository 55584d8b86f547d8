"""What lint says of files that are no ONNX models, of profiles, and of its own report."""

from __future__ import annotations

import importlib.util
import json
import logging

import numpy as np
import onnx
import pytest

from edgecc.errors import MissingToolError, UsageError
from edgecc.targets.tensorrt.lint import lint, profiles
from edgecc.targets.tensorrt.lint.rules import RULES
from tests import ROOT
from tests.targets.tensorrt.crafted import Model, broken

EVERY = {*(f"T{n:02}" for n in range(1, 17) if n != 7), *(f"Q{n:02}" for n in range(1, 12))}


def saved(tmp_path):
    model = Model(x=("f32", ["batch", 64]))
    return model.save(tmp_path, model.op("MatMul", "x", model.weight("w", np.ones((64, 64), np.float32))))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it holds no graph"),
        (b"this is no model, and no protobuf\n" * 9, "is not an ONNX model"),
        (b"PK\x03\x04" + bytes(64), "is not an ONNX model"),
        (onnx.ModelProto(ir_version=8).SerializeToString(), "it holds no graph"),
    ],
)
def test_what_is_no_model(tmp_path, content, message):
    file = tmp_path / "model.onnx"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        lint(file, "10.15")


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_a_model_that_is_cut_short(tmp_path, kept):
    file = saved(tmp_path)
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * kept)])
    with pytest.raises(UsageError, match="is not an ONNX model, or is cut short"):
        lint(file, "10.15")


def test_a_folder_and_an_absent_file(tmp_path):
    with pytest.raises(UsageError, match="is a folder"):
        lint(tmp_path, "10.15")
    with pytest.raises(UsageError, match="is not there"):
        lint(tmp_path / "absent.onnx", "10.15")


def test_a_tensor_that_nothing_makes(tmp_path):
    model = Model(x=("f32", ["batch", 4]))
    with pytest.raises(UsageError, match=r"node 'add_0' \(Add\) reads 'absent', which nothing makes"):
        lint(model.save(tmp_path, model.op("Add", "x", "absent")), "10.15")


def test_a_node_that_onnx_itself_refuses(tmp_path):
    model = Model(x=("f32", ["batch", "n"]))
    with pytest.raises(UsageError, match="is not a valid ONNX model"):
        lint(model.save(tmp_path, model.op("Hardmax", "x", axis=7)), "10.15")


def test_a_weight_whose_bytes_do_not_fit(tmp_path):
    model = Model(x=("f32", ["batch", 32]))
    proto = model.proto(model.qdq("x"))
    proto.graph.initializer[0].raw_data = b"\0\0"
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(UsageError, match="do not fit its shape"):
        lint(tmp_path / "model.onnx", "10.15")


def test_a_model_without_opset(tmp_path):
    proto = onnx.load(saved(tmp_path))
    del proto.opset_import[:]
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(UsageError, match="names no opset"):
        lint(tmp_path / "model.onnx", "10.15")


@pytest.mark.parametrize(
    ("given", "hint"), [("10.14", "the nearest is 10.15"), ("11", "the nearest is 11.1"), ("1.15", "did you mean '10.15'?")]
)
def test_an_unknown_profile(tmp_path, given, hint):
    with pytest.raises(UsageError, match=f"no profile of TensorRT '{given}'") as error:
        lint(saved(tmp_path), given)
    assert hint in error.value.hint


def test_without_onnx_the_install_line_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingToolError) as error:
        lint(saved(tmp_path), "10.15")
    assert error.value.hint == "pip install 'edgecc[onnx]'"


def test_every_profile_says_where_it_comes_from():
    assert profiles.versions() == ["10.1", "10.15", "11.1"]
    for version in profiles.versions():
        profile = profiles.profile(version)
        assert profile.origin and not profile.unsupported & profile.operators.keys()
        assert profile.restrictions.keys() <= profile.operators.keys()
        assert all(types <= profile.types for types in profile.operators.values())
    assert "96e781103cfc4adf4a6bb557e94bac8e693f6f4c" in profiles.profile("10.1").origin


def test_a_later_release_reads_what_an_earlier_one_read():
    first, second, third = (profiles.profile(v).operators.keys() for v in profiles.versions())
    assert second - first == {
        *("Attention", "BlackmanWindow", "HammingWindow", "HannWindow", "RMSNormalization", "RotaryEmbedding", "STFT", "TensorScatter")
    }
    assert third - second == {"Swish"} and first < second < third


def test_every_rule_stands_in_the_table_and_in_the_docs():
    assert [r.id for r in RULES] == sorted(EVERY, key=lambda i: (i[0] != "T", i))
    lines = [line for line in (ROOT / "docs" / "lint.md").read_text().splitlines() if line.startswith("| T") or line.startswith("| Q")]
    assert [tuple(c.strip() for c in line.strip("|").split("|")) for line in lines] == [
        (r.id, r.severity, r.title, r.source) for r in RULES
    ]


def test_the_verdict_never_says_ready(tmp_path):
    report = lint(saved(tmp_path), "10.15")
    assert report.verdict.startswith("passes 26 rules of profile trt-10.15; TensorRT itself was not run: confirm with  trtexec --onnx=")
    warned = lint(saved(tmp_path), "11.1")
    assert warned.verdict.startswith("passes 25 of 26 rules of profile trt-11.1 and warns by 1 (T05); TensorRT itself was not run")
    model = Model(x=("f32", [2, 4, 4]))
    refused = lint(model.save(tmp_path, model.op("Det", "x")), "10.15")
    assert refused.verdict.startswith("fails 1 of 26 rules of profile trt-10.15 (T03); TensorRT itself was not run")
    assert not any("ready" in r.verdict for r in (report, warned, refused))


def test_the_report_is_json(tmp_path):
    model = Model(x=("f32", [2, 4, 4]))
    document = json.loads(json.dumps(lint(model.save(tmp_path, model.op("Det", "x")), "10.15").as_dict()))
    assert set(document) == {"file", "runtime", "profile", "findings", "errors", "warnings", "rules_checked", "verdict", "commands"}
    (finding,) = document["findings"]
    assert set(finding) == {"rule", "severity", "title", "node", "operator", "found", "fix", "source"}
    assert (document["errors"], document["warnings"]) == (1, 0) and set(document["rules_checked"]) == EVERY


def test_two_runs_say_the_same(tmp_path):
    file = saved(tmp_path)
    assert lint(file, "11.1") == lint(file, "11.1")


def test_linting_writes_nothing_and_logs_nothing(tmp_path, caplog):
    file = saved(tmp_path)
    before = file.read_bytes()
    with caplog.at_level(logging.WARNING):
        assert broken(file) == []
    assert file.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["model.onnx"] and caplog.records == []
