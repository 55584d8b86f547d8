"""Lint rules Q01 to Q11: what Q and DQ say, and where they stand."""

from __future__ import annotations

import numpy as np
import pytest

from edgecc.targets.tensorrt.lint import lint
from tests.targets.tensorrt.crafted import Model, broken

ROWS = ["batch", 32]


def linear(**q):
    """The clean form: a quantized activation times an int8 weight with a scale for each output channel."""
    model = Model(x=("f32", ROWS))
    return model, model.op("MatMul", model.qdq("x", **q), model.quantized_weight("w", 32, 32, axis=1))


def test_the_clean_form(tmp_path):
    model, y = linear()
    assert broken(model.save(tmp_path, y)) == []


@pytest.mark.parametrize(
    ("zero", "message"),
    [
        (np.uint8(0), "it quantizes to uint8"),
        (np.uint8(128), "it quantizes to uint8"),
        (np.int8(3), "its zero point is 3"),
        (np.int16(0), "it quantizes to int16"),
    ],
)
def test_q01_zero_points(tmp_path, zero, message):
    model, y = linear(zero=zero)
    model.opset = 21
    report = lint(model.save(tmp_path, y), "10.15")
    assert [(f.rule, f.severity, f.operator, f.found) for f in report.findings] == [
        ("Q01", "E", "QuantizeLinear", message),
        ("Q01", "E", "DequantizeLinear", message),
    ]


def test_q01_a_missing_zero_point_means_two_things(tmp_path):
    model = Model(x=("f32", ROWS))
    quantized = model.q("x", zero=None)
    y = model.op("MatMul", model.dq(quantized, zero=None), model.quantized_weight("w", 32, 32, axis=1))
    findings = lint(model.save(tmp_path, y), "10.15").findings
    assert {f.rule for f in findings} == {"Q01"} and "int8 to TensorRT, uint8 to ONNX Runtime" in findings[0].found


def test_q01_output_dtype_says_it_too(tmp_path):
    model = Model(21, x=("f32", ROWS))
    quantized = model.q("x", zero=None, output_dtype=3)
    y = model.op("MatMul", model.dq(quantized, zero=None), model.quantized_weight("w", 32, 32, axis=1))
    assert broken(model.save(tmp_path, y)) == []


def test_q01_a_computed_zero_point(tmp_path):
    model = Model(x=("f32", ROWS), zero=("i8", []))
    scale = model.weight("s", np.float32(0.1))
    pair = model.dq(model.op("QuantizeLinear", "x", scale, "zero"), np.float32(0.1))
    y = model.op("MatMul", pair, model.quantized_weight("w", 32, 32, axis=1))
    assert broken(model.save(tmp_path, y)) == ["E Q01"]


@pytest.mark.parametrize("scale", [0.0, -0.1, np.nan, np.inf])
def test_q02_scales(tmp_path, scale):
    model, y = linear(scale=np.float32(scale))
    assert broken(model.save(tmp_path, y)) == (["E Q02", "E Q11"] if scale == np.inf else ["E Q02"])


def test_q02_a_computed_scale(tmp_path):
    model = Model(x=("f32", ROWS))
    scale = model.op("ReduceMax", model.op("Abs", "x"), keepdims=0)
    zero = model.weight("zero", np.int8(0))
    pair = model.op("DequantizeLinear", model.op("QuantizeLinear", "x", scale, zero), scale, zero)
    y = model.op("MatMul", pair, model.quantized_weight("w", 32, 32, axis=1))
    assert broken(model.save(tmp_path, y)) == ["E Q02"]


def test_q02_scales_that_are_dequantized_by_a_scalar(tmp_path):
    """NVFP4: FP4 weights, an fp8 scale for each 16 of them, one float32 scalar for these."""
    model = Model(23, x=("f32", ROWS))
    coarse = model.weight("coarse", np.float32(0.5))
    fine = model.op("DequantizeLinear", model.weight("fine", np.ones((2, 32), np.int8)), coarse)
    y = model.op("MatMul", "x", model.op("DequantizeLinear", model.weight("w", np.ones((32, 32)), "f4"), fine, axis=0, block_size=16))
    assert broken(model.save(tmp_path, y)) == []


def convolved(axis, count=None):
    model = Model(x=("f32", ["batch", 32, 8, 8]))
    count = 48 if count is None and axis == 0 else count or 32
    weight = model.dq(
        model.weight("w", np.ones((48, 32, 3, 3), np.int8)), np.full(count, 0.1, np.float32), np.zeros(count, np.int8), axis=axis
    )
    return model, model.op("Conv", model.qdq("x"), weight)


def gemm(transposed, axis):
    model = Model(x=("f32", ROWS))
    sizes = (48, 32) if transposed else (32, 48)
    return model, model.op("Gemm", model.qdq("x"), model.quantized_weight("w", *sizes, axis=axis), transB=int(transposed))


def transposed_weight(axis):
    model = Model(x=("f32", ROWS))
    return model, model.op("MatMul", model.qdq("x"), model.op("Transpose", model.quantized_weight("w", 48, 32, axis=axis), perm=[1, 0]))


@pytest.mark.parametrize(
    ("build", "bad", "clean"),
    [
        (convolved, (1,), (0,)),
        (convolved, (0, 32), (0, 48)),
        (gemm, (True, 1), (True, 0)),
        (gemm, (False, 0), (False, 1)),
        (transposed_weight, (1,), (0,)),
    ],
)
def test_q03_axes(tmp_path, build, bad, clean):
    model, y = build(*bad)
    assert broken(model.save(tmp_path, (y, "f32", ["batch", *["n"] * (3 if build is convolved else 1)]))) == ["E Q03"]
    model, y = build(*clean)
    assert broken(model.save(tmp_path, y)) == []


def test_q03_activations_have_one_scale(tmp_path):
    model, y = linear(scale=np.full(32, 0.1, np.float32), zero=np.zeros(32, np.int8))
    assert broken(model.save(tmp_path, y)) == ["E Q03"]


def test_q04_one_input_alone(tmp_path):
    model = Model(x=("f32", ROWS))
    y = model.op("MatMul", model.qdq("x"), model.weight("w", np.ones((32, 32), np.float32)))
    assert broken(model.save(tmp_path, y)) == ["W Q04"]
    model = Model(x=("f32", ROWS))
    y = model.op("MatMul", "x", model.quantized_weight("w", 32, 32, axis=1))
    (finding,) = lint(model.save(tmp_path, y), "10.15").findings
    assert finding.rule == "Q04" and finding.found.startswith("its activation is not quantized")


def biased(quantized):
    model = Model(x=("f32", ROWS))
    weight = model.quantized_weight("w", 32, 32, axis=1)
    bias = (
        model.dq(model.weight("b", np.ones(32, np.int32)), np.float32(0.001), None)
        if quantized
        else model.weight("b", np.ones(32, np.float32))
    )
    return model, model.op("Gemm", model.qdq("x"), weight, bias)


def test_q05_biases(tmp_path):
    model, y = biased(True)
    (finding,) = lint(model.save(tmp_path, y), "10.15").findings
    assert (finding.rule, finding.severity) == ("Q05", "E") and finding.found.startswith("its bias is dequantized from int32")
    model, y = biased(False)
    assert broken(model.save(tmp_path, y)) == []


def test_q06_outputs(tmp_path):
    model, y = linear()
    assert broken(model.save(tmp_path, model.op("Relu", model.qdq(y)))) == ["W Q06"]
    model, y = linear()
    assert broken(model.save(tmp_path, model.op("Neg", model.qdq(model.op("Relu", y))))) == []


def test_q06_the_input_of_the_next_one_stays(tmp_path):
    model, y = linear()
    y = model.op("MatMul", model.qdq(y), model.quantized_weight("w2", 32, 32, axis=1))
    assert broken(model.save(tmp_path, y)) == []


def blocked(kind, block, opset=21, rows=128):
    model = Model(opset, x=("f32", ["batch", rows]))
    scales = model.weight("s", np.full((rows // block, 32), 0.1, np.float32))
    weight = model.weight("w", np.ones((rows, 32)), kind)
    return model, model.op("MatMul", "x", model.op("DequantizeLinear", weight, scales, axis=0, block_size=block))


def test_q07_blocks(tmp_path):
    for kind, block, opset in (("i4", 64, 21), ("i4", 128, 21), ("f4", 16, 23)):
        model, y = blocked(kind, block, opset, 256)
        assert broken(model.save(tmp_path, y)) == []


@pytest.mark.parametrize(
    ("kind", "block", "opset", "message"),
    [("i4", 32, 21, "blocks of INT4 have 32 numbers, want 64 or 128"), ("f4", 64, 23, "blocks of FP4 have 64 numbers, want 16")],
)
def test_q07_blocks_that_tensorrt_lacks(tmp_path, kind, block, opset, message):
    model, y = blocked(kind, block, opset)
    (finding,) = lint(model.save(tmp_path, y), "10.15").findings
    assert (finding.rule, finding.severity, finding.found) == ("Q07", "E", message)


def test_q07_int8_has_no_blocks(tmp_path):
    model, y = blocked("i8", 64)
    assert broken(model.save(tmp_path, y)) == ["W Q04", "E Q07"]


def test_q07_blocks_before_opset_21(tmp_path):
    model, y = blocked("i8", 64, 20)
    assert "E Q07" in broken(model.save(tmp_path, y))


def test_q07_int4_is_for_weights(tmp_path):
    model = Model(21, x=("f32", ROWS))
    zero = model.weight("zero", 0, "i4")
    scale = model.weight("scale", np.float32(0.1))
    pair = model.op("DequantizeLinear", model.op("QuantizeLinear", "x", scale, zero), scale, zero)
    y = model.op("MatMul", pair, model.weight("w", np.ones((32, 32), np.float32)))
    assert broken(model.save(tmp_path, y)) == ["E Q07"]


def test_q07_two_int4_share_a_byte(tmp_path):
    model = Model(21, x=("f32", ROWS))
    y = model.op(
        "MatMul", "x", model.op("DequantizeLinear", model.weight("w", np.ones((32, 17)), "i4"), model.weight("s", np.float32(0.1)))
    )
    assert broken(model.save(tmp_path, y)) == ["E Q07"]


def test_q08_pairs(tmp_path):
    model = Model(x=("f32", ROWS))
    pair = model.dq(model.q("x", np.float32(0.1)), np.float32(0.2))
    y = model.op("MatMul", pair, model.quantized_weight("w", 32, 32, axis=1))
    (finding,) = lint(model.save(tmp_path, y), "10.15").findings
    assert (finding.rule, finding.severity) == ("Q08", "E") and "another scale" in finding.found


def test_q08_only_dq_reads(tmp_path):
    model = Model(x=("f32", ROWS))
    y = model.op("Cast", model.q("x"), to=1)
    assert broken(model.save(tmp_path, y)) == ["E Q08"]


def residual(quantized):
    model = Model(x=("f32", ["batch", 32, 8, 8]))
    weight = model.quantized_weight("w", 32, 32, 1, 1, axis=0)
    pair = model.qdq("x")
    return model, model.op("Relu", model.op("Add", model.op("Conv", pair, weight), pair if quantized else "x"))


def test_q09_residuals(tmp_path):
    model, y = residual(False)
    assert broken(model.save(tmp_path, y)) == ["W Q09"]
    model, y = residual(True)
    assert broken(model.save(tmp_path, y)) == []


def sized(rows, inputs, outputs):
    model = Model(x=("f32", [rows, inputs]))
    return model, model.op("MatMul", model.qdq("x"), model.quantized_weight("w", inputs, outputs, axis=1))


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ((4, 8, 32), "it has 8 input channels"),
        ((4, 32, 10), "it has 10 output channels"),
        ((1, 32, 32), "it multiplies one row"),
        ((2, 16, 16), ""),
    ],
)
def test_q10_too_small_to_gain(tmp_path, case, message):
    model, y = sized(*case)
    found = [f.found for f in lint(model.save(tmp_path, y), "10.15").findings if f.rule == "Q10"]
    assert [f.startswith(message) for f in found] == ([True] if message else [])
    assert set(broken(model.save(tmp_path, y))) == ({"W Q10"} if message else set())


def test_q10_counts_the_channels_of_all_groups(tmp_path):
    model = Model(x=("f32", ["batch", 32, 8, 8]))
    y = model.op("Conv", model.qdq("x"), model.quantized_weight("w", 32, 1, 3, 3, axis=0), group=32)
    assert broken(model.save(tmp_path, y)) == []


def masked(scale=None):
    heads = ["batch", 2, 32, 32]
    model = Model(q=("f32", heads), k=("f32", heads), v=("f32", heads), mask=("f32", ["batch", 1, 32, 32]))
    mask = "mask" if scale is None else model.qdq("mask", np.float32(scale))
    return model, model.op("MatMul", model.op("Softmax", model.op("Add", model.op("MatMul", "q", "k"), mask)), "v")


@pytest.mark.parametrize(("scale", "wanted"), [(None, []), (0.1, ["W Q11"]), (1e7, ["E Q11"])])
def test_q11_masks(tmp_path, scale, wanted):
    model, y = masked(scale)
    assert broken(model.save(tmp_path, y)) == wanted


def test_q11_quantized_scores_are_no_mask(tmp_path):
    heads = ["batch", 2, 32, 32]
    model = Model(q=("f32", heads), k=("f32", heads), v=("f32", heads), mask=("f32", ["batch", 1, 32, 32]))
    scores = model.op("Add", model.qdq(model.op("MatMul", "q", "k")), "mask")
    assert broken(model.save(tmp_path, model.op("MatMul", model.op("Softmax", scores), "v"))) == []
