"""Lint rules T05, T06 and T08: types and the range of float16."""

from __future__ import annotations

import numpy as np
import pytest

from edgecc.targets.tensorrt.lint import lint
from tests.targets.tensorrt.crafted import Model, broken

ROWS = ["batch", 4]


def linear(kind="f32"):
    dtype = {"f32": np.float32, "f16": np.float16, "f64": np.float64}[kind]
    model = Model(x=(kind, ROWS))
    return model, (model.op("MatMul", "x", model.weight("w", np.ones((4, 4), dtype))), kind, ROWS)


def test_release_11_computes_a_float32_file_in_float32(tmp_path):
    model, y = linear()
    (finding,) = lint(model.save(tmp_path, y), "11.1").findings
    assert (finding.rule, finding.severity) == ("T05", "W") and "--fp16" in finding.fix


def test_release_10_takes_the_precision_from_flags(tmp_path):
    model, y = linear()
    assert broken(model.save(tmp_path, y), "10.15") == []


def test_float16_and_quantized_files_say_their_precision(tmp_path):
    model, y = linear("f16")
    assert broken(model.save(tmp_path, y), "11.1") == []
    model = Model(x=("f32", ["batch", 32]))
    y = model.op("MatMul", model.qdq("x"), model.quantized_weight("w", 32, 32, axis=1))
    assert broken(model.save(tmp_path, y), "11.1") == []


def test_float64_is_refused(tmp_path):
    model, y = linear("f64")
    assert broken(model.save(tmp_path, y)) == ["E T06"]


def test_uint8_goes_in_and_out_by_a_cast_only(tmp_path):
    model = Model(x=("u8", ROWS))
    image = model.op("Cast", "x", to=1)
    y = model.op("Cast", model.op("Relu", image), to=2)
    assert broken(model.save(tmp_path, (y, "u8", ROWS))) == []
    model = Model(x=("u8", ROWS), y=("u8", ROWS))
    y = model.op("Cast", model.op("BitwiseAnd", model.op("Concat", "x", "y", axis=0), "y"), to=1)
    assert "E T06" in broken(model.save(tmp_path, y))


@pytest.mark.parametrize("kind", ["i8", "i4"])
def test_quantized_types_stand_between_q_and_dq_only(tmp_path, kind):
    model = Model(21, x=("f32", ["batch", 2]))
    weight = model.weight("w", [[1, 2], [3, 4]], kind)
    zero = model.weight("zero", [0, 0], kind)
    gathered = model.op("Transpose", weight, perm=[1, 0])
    scales = model.weight("scales", np.ones(2, np.float32))
    y = model.op("MatMul", "x", model.op("DequantizeLinear", gathered, scales, zero, axis=1))
    assert broken(model.save(tmp_path, y)) == (["E T06", "W Q04"] if kind == "i8" else ["E T06"])


def test_int8_weights_for_dq_are_no_tensors_outside(tmp_path):
    model = Model(x=("f32", ["batch", 32]))
    y = model.op("MatMul", model.qdq("x"), model.quantized_weight("w", 32, 32, axis=1))
    assert broken(model.save(tmp_path, y)) == []


@pytest.mark.parametrize(("profile", "wanted"), [("10.1", "E T06"), ("10.15", "")])
def test_fp4_came_after_10_1(tmp_path, profile, wanted):
    model = Model(23, x=("f32", ["batch", 16]))
    weight = model.weight("w", np.ones((16, 16)), "f4")
    scales = model.weight("scales", np.ones((1, 16), np.float32))
    y = model.op("MatMul", "x", model.op("DequantizeLinear", weight, scales, axis=0, block_size=16))
    assert [r for r in broken(model.save(tmp_path, y), profile) if r != "E T01"] == ([wanted] if wanted else [])


def masked(value, kind=np.float16, carried=False):
    model = Model(x=("f16", ROWS), mask=("bool", ROWS))
    fill = model.weight("fill", np.array(value, kind))
    if carried:
        zero = model.weight("zero", np.float32(0))
        return model, model.op("Add", "x", model.op("Cast", model.op("Where", "mask", fill, zero), to=10))
    return model, model.op("Where", "mask", fill, "x")


def test_constants_that_float16_holds(tmp_path):
    for value, kind, carried in ((-1e4, np.float16, False), (-1e4, np.float32, True), (65504, np.float16, False)):
        model, y = masked(value, kind, carried)
        assert broken(model.save(tmp_path, (y, "f16", ROWS))) == []


def test_constants_beyond_float16(tmp_path):
    for value, kind, carried in ((-np.inf, np.float16, False), (-3.4e38, np.float32, True)):
        model, y = masked(value, kind, carried)
        (finding,) = lint(model.save(tmp_path, (y, "f16", ROWS)), "10.15").findings
        assert (finding.rule, finding.severity, finding.node) == ("T08", "E", "fill") and "clamp" in finding.fix


def test_a_large_constant_that_stays_float32_is_left_alone(tmp_path):
    model = Model(x=("f16", ROWS), z=("f32", ROWS), mask=("bool", ROWS))
    y = model.op("Relu", "x")
    z = model.op("Where", "mask", model.weight("fill", np.float32(-3e38)), "z")
    assert broken(model.save(tmp_path, (y, "f16", ROWS), z)) == []
