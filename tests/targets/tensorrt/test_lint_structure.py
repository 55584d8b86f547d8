"""Lint rules T01, T02, T10 and T16: the file, its opset, domains, external data and names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgecc.targets.tensorrt.lint import lint
from tests.targets.tensorrt.crafted import Model, broken


def relu(opset=20, **attrs):
    model = Model(opset, x=("f32", ["batch", 4]))
    return model, model.op("Relu", "x", **attrs)


@pytest.mark.parametrize(("profile", "opset"), [("10.1", 20), ("10.15", 24), ("11.1", 24), ("10.15", 9)])
def test_an_opset_of_the_range_is_read(tmp_path, profile, opset):
    model, y = relu(opset)
    assert not {"E T01", "W T01"} & set(broken(model.save(tmp_path, y), profile))


@pytest.mark.parametrize(("profile", "opset"), [("10.1", 21), ("10.15", 25), ("11.1", 25), ("10.15", 8)])
def test_an_opset_beyond_the_range_is_refused(tmp_path, profile, opset):
    model, y = relu(opset)
    assert "E T01" in broken(model.save(tmp_path, y), profile)


def test_t01_alone(tmp_path):
    model, y = relu(21)
    assert broken(model.save(tmp_path, y), "10.1") == ["E T01"]


def test_a_foreign_domain_needs_a_plugin(tmp_path):
    model = Model(x=("f32", ["batch", 4]))
    y = model.op("Gelu", "x", domain="com.microsoft")
    (finding,) = lint(model.save(tmp_path, (y, "f32", ["batch", 4])), "10.15").findings
    assert (finding.rule, finding.severity, finding.node, finding.operator) == ("T02", "E", "gelu_0", "Gelu")
    assert "'com.microsoft'" in finding.found


def test_an_operator_of_tensorrts_own_is_said_not_to_be_checked(tmp_path):
    model = Model(x=("f32", ["batch", 4]))
    y = model.op("EfficientNMS_TRT", "x", domain="trt.plugins")
    (finding,) = lint(model.save(tmp_path, (y, "f32", ["batch", 4])), "10.15").findings
    assert (finding.rule, finding.severity) == ("T02", "W") and "no rule checks it" in finding.found


def function(opset=20):
    body = [helper.make_node("Relu", ["a"], ["b"], name="inner")]
    return helper.make_function("my.domain", "Mine", ["a"], ["b"], body, [helper.make_opsetid("", opset)])


def test_a_function_of_the_file_is_no_foreign_domain(tmp_path):
    model = Model(x=("f32", ["batch", 4]))
    y = model.op("Mine", "x", domain="my.domain")
    model.functions.append(function())
    assert broken(model.save(tmp_path, y)) == []


def test_what_a_function_calls_is_checked_too(tmp_path):
    model = Model(x=("f32", ["batch", 4]))
    y = model.op("Mine", "x", domain="my.domain")
    body = [helper.make_node("Det", ["a"], ["b"], name="inner")]
    model.functions.append(helper.make_function("my.domain", "Mine", ["a"], ["b"], body, [helper.make_opsetid("", 20)]))
    assert "E T03" in broken(model.save(tmp_path, y))


def test_a_function_of_another_opset_is_said_not_to_be_checked(tmp_path):
    model = Model(x=("f32", ["batch", 4]))
    y = model.op("Mine", "x", domain="my.domain")
    model.functions.append(function(18))
    (finding,) = lint(model.save(tmp_path, (y, "f32", ["batch", 4])), "10.15").findings
    assert (finding.rule, finding.severity) == ("T01", "W") and "body was not checked" in finding.found


def external(tmp_path, location="weights.bin", length=64, held=64, offset=0, sizes=(4, 4)) -> Path:
    model = Model(x=("f32", ["batch", 4]))
    proto = model.proto(model.op("MatMul", "x", "w"))
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=sizes, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
    proto.graph.initializer.append(tensor)
    if held is not None:
        (tmp_path / "weights.bin").write_bytes(bytes(held))
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    return tmp_path / "model.onnx"


def test_whole_external_data_is_taken(tmp_path):
    assert broken(external(tmp_path)) == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"held": None}, "'weights.bin' is missing"),
        ({"location": "/tmp/weights.bin"}, "absolute path"),
        ({"location": "C:\\weights.bin"}, "absolute path"),
        ({"location": "../weights.bin"}, "outside of the model's folder"),
        ({"held": 32}, "ends at byte 64 of 'weights.bin', which has 32"),
        ({"offset": 8}, "ends at byte 72"),
        ({"length": 32}, "it has 32 bytes of data, its type and shape want 64"),
    ],
)
def test_external_data_that_is_not_there_is_refused(tmp_path, wrong, message):
    (finding,) = lint(external(tmp_path, **wrong), "10.15").findings
    assert (finding.rule, finding.severity, finding.node) == ("T10", "E", "w") and message in finding.found


def test_names_that_repeat_lack_or_count_are_warned_of(tmp_path):
    model, y = relu(name="same")
    y = model.op("Neg", y, name="same")
    assert broken(model.save(tmp_path, y)) == ["W T16"]
    model, y = relu(name="")
    assert broken(model.save(tmp_path, y)) == ["W T16"]
    model = Model(x=("f32", ["batch", 16]))
    y = model.op("MatMul", "x", model.weight("onnx::MatMul_17", np.ones((16, 16), np.float32)))
    assert broken(model.save(tmp_path, y)) == ["W T16"]


def test_literals_may_be_named_by_a_counter(tmp_path):
    model = Model(x=("f32", ["batch", 16]))
    y = model.op("Mul", "x", model.weight("val_17", np.float32(2)))
    assert broken(model.save(tmp_path, y)) == []


PEAK = """
import sys
from pathlib import Path
from edgecc.targets.tensorrt.lint import lint
found = len(lint(Path(sys.argv[1]), "10.15").findings)
status = Path("/proc/self/status").read_text()  # ru_maxrss would be at least what the process had that started this one
print(found, status.partition("VmHWM:")[2].split()[0])
"""


@pytest.mark.slow
def test_external_data_is_never_read_whole(tmp_path):
    """3 GiB of weight in a sparse file, which takes no disk, checked by a process that never holds 1.5 GiB."""
    columns = 3 << 18  # of 1024 float32 numbers each
    file = external(tmp_path, length=columns * 4096, held=None, sizes=(1024, columns))
    proto = onnx.load(file, load_external_data=False)
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1024
    file.write_bytes(proto.SerializeToString())
    with (tmp_path / "weights.bin").open("wb") as stream:
        stream.truncate(columns * 4096)
    said = subprocess.run([sys.executable, "-c", PEAK, file], capture_output=True, text=True, check=True).stdout
    findings, peak = map(int, said.split())
    assert findings == 0 and peak < 1.5 * (1 << 20)  # KiB


def test_a_file_beyond_the_limit_of_protobuf_is_refused_unread(tmp_path):
    file = tmp_path / "large.onnx"
    with file.open("wb") as stream:
        stream.truncate(1 << 31)
    report = lint(file, "10.15")
    assert [f.rule for f in report.findings] == ["T10"] and report.rules_checked == ("T10",)
    assert report.verdict.startswith("fails 1 of 1 rule of profile trt-10.15 (T10); TensorRT itself was not run")
