"""`edgecc lint`: its text, its JSON document and its exit codes."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgecc.errors import UsageError
from edgecc.registry import Registry
from tests.targets.tensorrt.crafted import Model


@pytest.fixture
def clean(tmp_path):
    model = Model(ids=("f32", ["batch", "seq", 32]))
    model.save(tmp_path, model.op("MatMul", "ids", model.weight("w", np.ones((32, 32), np.float32))))


@pytest.fixture
def bad(tmp_path):
    model = Model(x=("f32", ["batch", 32]))
    y = model.op("MatMul", model.qdq("x", zero=np.uint8(0)), model.weight("w", np.ones((32, 32), np.float32)))
    for _ in range(10):
        y = model.op("Tanh", model.qdq(y, zero=np.uint8(0)))
    model.save(tmp_path, y)


def test_a_clean_file_exits_0_and_says_what_would_confirm_it(edgecc, clean):
    result = edgecc("lint", "model.onnx", "--trt", "10.15")
    assert result.code == 0, result.err
    assert result.out.splitlines() == [
        "model.onnx: 0 errors, 0 warnings",
        "passes 26 rules of profile trt-10.15; TensorRT itself was not run",
        "confirm with",
        "  trtexec --onnx=model.onnx --stronglyTyped --minShapes=ids:MIN_BATCHxMIN_SEQx32 --optShapes=ids:OPT_BATCHxOPT_SEQx32 --maxShapes=ids:MAX_BATCHxMAX_SEQx32",
        "  polygraphy run model.onnx --trt --onnxrt --strongly-typed --trt-min-shapes ids:[MIN_BATCH,MIN_SEQ,32]"
        " --trt-opt-shapes ids:[OPT_BATCH,OPT_SEQ,32] --trt-max-shapes ids:[MAX_BATCH,MAX_SEQ,32]",
    ]


def test_10_15_is_the_default_profile(edgecc, clean):
    assert edgecc("lint", "model.onnx", "--json").document["profile"] == "trt-10.15"


def test_a_warning_exits_0(edgecc, clean):
    result = edgecc("lint", "model.onnx", "--trt", "11.1")
    assert result.code == 0 and "W T05  the asked precision stands in the graph" in result.out


def test_an_error_exits_1_and_is_grouped_by_rule(edgecc, bad):
    result = edgecc("lint", "model.onnx")
    assert result.code == 1
    lines = result.out.splitlines()
    assert lines[0] == "E Q01  zero points are zero, of int8, fp8, int4 or fp4"
    assert lines[1] == "    E  quantizelinear_0     QuantizeLinear    it quantizes to uint8"
    assert lines[9:12] == [
        "    and 14 more: -v lists them",
        "    do: quantize to int8: symmetric, ActivationSymmetric and QInt8 in ONNX Runtime's quantizer",
        "    source: TensorRT documentation, Working with Quantized Types: Explicit Quantization",
    ]
    assert "fails 1 of 26 rules of profile trt-10.15 (Q01); TensorRT itself was not run" in lines


def test_v_lists_every_finding(edgecc, bad):
    assert edgecc("lint", "model.onnx", "-v").out.count("it quantizes to uint8") == 22


def test_json_is_the_whole_report(edgecc, bad):
    result = edgecc("lint", "model.onnx", "--json")
    document = result.document
    assert result.code == 1 and document["errors"] == 22 and len(document["rules_checked"]) == 26
    assert document["findings"][0]["rule"] == "Q01" and document["findings"][0]["operator"] == "QuantizeLinear"
    assert document["verdict"].startswith("fails 1 of 26 rules") and "confirm with  trtexec" in document["verdict"]


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "model.onnx is not there"), (b"", "it holds no graph"), (b"text, not protobuf\n" * 9, "is not an ONNX model")],
)
def test_bad_input_exits_2(edgecc, tmp_path, content, message):
    if content is not None:
        (tmp_path / "model.onnx").write_bytes(content)
    result = edgecc("lint", "model.onnx")
    assert result.code == 2 and message in result.err and result.out == ""


def test_a_folder_exits_2(edgecc, tmp_path):
    (tmp_path / "model.onnx").mkdir()
    result = edgecc("lint", "model.onnx")
    assert result.code == 2 and "model.onnx is a folder" in result.err


def test_an_unknown_profile_exits_2_with_the_nearest(edgecc, clean):
    result = edgecc("lint", "model.onnx", "--trt", "10.14")
    assert result.code == 2 and "no profile of TensorRT '10.14'" in result.err and "the nearest is 10.15" in result.err


def test_missing_external_data_is_a_finding(edgecc, tmp_path):
    model = Model(x=("f32", ["batch", 32]))
    file = model.save(tmp_path, model.op("MatMul", "x", model.weight("w", np.ones((32, 32), np.float32))))
    onnx.save(onnx.load(file), file, save_as_external_data=True, location="model.data", size_threshold=0)
    (tmp_path / "model.data").unlink()
    result = edgecc("lint", "model.onnx", "--json")
    assert result.code == 1 and [f["rule"] for f in result.document["findings"]] == ["T10"]


def test_without_onnx_it_exits_5_with_the_install_line(edgecc, clean, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name.startswith("onnx") else find(name, *rest))
    result = edgecc("lint", "model.onnx")
    assert result.code == 5 and "pip install 'edgecc[onnx]'" in result.err


def test_another_target_has_no_lint():
    with pytest.raises(UsageError, match="target 'x86_cpu' has no lint"):
        Registry.create().create_target("x86_cpu", {}).lint(Path("model.onnx"), "10.15")
