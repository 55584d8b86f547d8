"""Lint rules T09, T11, T13, T14 and T15: shapes, and the patterns that TensorRT fuses."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from edgecc.targets.tensorrt.lint import lint
from tests.targets.tensorrt.crafted import Model, broken


def added(first, second):
    model = Model(x=("f32", first), y=("f32", second))
    return model, (model.op("Add", "x", "y"), "f32", None if first is None else ["n"] * len(first))


def test_inputs_that_share_their_symbols(tmp_path):
    model, y = added(["batch", "seq"], ["batch", "seq"])
    report = lint(model.save(tmp_path, y), "10.15")
    assert report.findings == ()
    trtexec, polygraphy = report.commands
    assert trtexec.endswith(
        "--minShapes=x:MIN_BATCHxMIN_SEQ,y:MIN_BATCHxMIN_SEQ --optShapes=x:OPT_BATCHxOPT_SEQ,y:OPT_BATCHxOPT_SEQ "
        "--maxShapes=x:MAX_BATCHxMAX_SEQ,y:MAX_BATCHxMAX_SEQ"
    )
    assert "--trt-min-shapes x:[MIN_BATCH,MIN_SEQ] y:[MIN_BATCH,MIN_SEQ]" in polygraphy


def test_static_inputs_need_no_shapes(tmp_path):
    model, y = added([2, 3], [2, 3])
    assert not any("hapes" in c for c in lint(model.save(tmp_path, y), "10.15").commands)


def test_strong_typing_is_a_flag_before_11_only(tmp_path):
    model, y = added([2, 3], [2, 3])
    file = model.save(tmp_path, y)
    (old, _), (new, _) = (lint(file, profile).commands for profile in ("10.1", "11.1"))
    assert old.endswith(" --stronglyTyped") and not new.endswith(" --stronglyTyped")


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (["batch", 4], ["n", 4], "dimension 0 has several names: batch of x, n of y"),
        ([None, 4], [None, 4], "dimensions [0] of the input are dynamic and have no name"),
        (["s77", 4], ["s77", 4], "generated dimension names s77"),
    ],
)
def test_symbols_that_tensorrt_cannot_relate(tmp_path, first, second, message):
    model, y = added(first, second)
    report = lint(model.save(tmp_path, y), "10.15")
    assert {(f.rule, f.severity) for f in report.findings} == {("T09", "W")} and message in report.findings[0].found


def test_an_input_without_a_shape(tmp_path):
    model = Model(x=("f32", None))
    assert broken(model.save(tmp_path, (model.op("Reshape", "x", model.weight("to", np.array([2, 2]))), "f32", [2, 2]))) == ["W T09"]


def test_a_rank_that_nobody_knows(tmp_path):
    model = Model(x=("f32", [4, 4]), sizes=("i64", ["n"]))
    (finding,) = lint(model.save(tmp_path, model.op("Reshape", "x", "sizes")), "10.15").findings
    assert (finding.rule, finding.severity, finding.found) == ("T14", "W", "'reshape_0_out0' has no known rank")
    model = Model(x=("f32", [4, 4]), sizes=("i64", [3]))
    assert broken(model.save(tmp_path, model.op("Reshape", "x", "sizes"))) == []


def test_data_dependent_shapes(tmp_path):
    model = Model(x=("f32", [4, 4]))
    assert broken(model.save(tmp_path, (model.op("NonZero", "x"), "i64", [2, "n"]))) == ["W T15"]


def test_what_a_branch_holds_is_checked_too(tmp_path):
    model = Model(condition=("bool", []), x=("f32", [2, 4, 4]))
    outputs = [[helper.make_tensor_value_info(n, 1, [2])] for n in ("a", "b")]
    nodes = [helper.make_node("Det", ["x"], ["a"], name="det"), helper.make_node("ReduceMax", ["x", "axes"], ["b"], name="max", keepdims=0)]
    branches = [helper.make_graph([node], node.name, [], out) for node, out in zip(nodes, outputs, strict=True)]
    branches[1].initializer.append(helper.make_tensor("axes", 7, [2], [1, 2]))
    y = model.op("If", "condition", then_branch=branches[0], else_branch=branches[1])
    report = lint(model.save(tmp_path, (y, "f32", [2])), "10.15")
    assert [(f.rule, f.node) for f in report.findings] == [("T03", "det"), ("T15", "if_0")]


def layer_norm(model, x, *, centred=True):
    axes = model.weight("axes", np.array([-1]))
    if centred:
        x = model.op("Sub", x, model.op("ReduceMean", x, axes))
    variance = model.op("ReduceMean", model.op("Pow", x, model.weight("two", np.float32(2))), axes)
    return model.op("Div", x, model.op("Sqrt", model.op("Add", variance, model.weight("eps", np.float32(1e-5)))))


def gelu(model, x):
    inner = model.op("Erf", model.op("Div", x, model.weight("root", np.float32(2**0.5))))
    return model.op(
        "Mul", model.op("Mul", x, model.op("Add", inner, model.weight("one", np.float32(1)))), model.weight("half", np.float32(0.5))
    )


def tanh_gelu(model, x):
    inner = model.op(
        "Add", x, model.op("Mul", model.op("Pow", x, model.weight("three", np.float32(3))), model.weight("c", np.float32(0.044715)))
    )
    tanh = model.op("Tanh", model.op("Mul", inner, model.weight("factor", np.float32(0.7978845608))))
    return model.op("Mul", x, model.op("Add", tanh, model.weight("one", np.float32(1))))


@pytest.mark.parametrize(
    ("build", "profile", "wanted"),
    [
        (layer_norm, "10.15", "emit LayerNormalization"),
        (lambda m, x: layer_norm(m, x, centred=False), "10.15", "emit RMSNormalization, which needs opset 23"),
        (lambda m, x: layer_norm(m, x, centred=False), "10.1", ""),
        (gelu, "10.15", "emit Gelu"),
        (tanh_gelu, "10.15", "emit Gelu"),
        (lambda m, x: m.op("Tanh", x), "10.15", ""),
        (lambda m, x: m.op("Erf", x), "10.15", ""),
        (lambda m, x: m.op("Sqrt", m.op("Add", x, x)), "10.15", ""),
        (lambda m, x: m.op("Gelu", x), "10.15", ""),
        (lambda m, x: m.op("LayerNormalization", x, m.weight("scale", np.ones(8, np.float32))), "10.15", ""),
    ],
)
def test_decomposed_operators(tmp_path, build, profile, wanted):
    model = Model(x=("f32", ["batch", 8]))
    findings = lint(model.save(tmp_path, build(model, "x")), profile).findings
    assert [(f.rule, f.severity, f.fix) for f in findings] == ([("T11", "W", wanted)] if wanted else [])


def attention(*, before=True, after=False, guard=False):
    heads = ["batch", 2, 4, 8]
    model = Model(q=("f32", heads), k=("f32", ["batch", 2, 8, 4]), v=("f32", heads), mask=("f32", ["batch", 1, 4, 4]))
    scale = model.weight("scale", np.float32(0.35))
    scores = model.op("MatMul", model.op("Mul", "q", scale) if before else "q", "k")
    scores = model.op("Add", model.op("Mul", scores, scale) if after else scores, "mask")
    weights = model.op("Softmax", scores)
    if guard:
        weights = model.op("Where", model.op("IsNaN", weights), model.weight("none", np.float32(0)), weights)
    return model, model.op("MatMul", weights, "v")


def test_an_attention_that_is_fused(tmp_path):
    model, y = attention()
    assert broken(model.save(tmp_path, y)) == []


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ({"before": False, "after": True}, "the scores are scaled by mul_1 after the first matmul"),
        ({"guard": True}, "IsNaN stands between Softmax and the second matmul"),
    ],
)
def test_an_attention_that_is_not_fused(tmp_path, case, message):
    model, y = attention(**case)
    (finding,) = lint(model.save(tmp_path, y), "10.15").findings
    assert (finding.rule, finding.severity, finding.found) == ("T13", "W", message)


def test_a_softmax_outside_of_attention_is_left_alone(tmp_path):
    model = Model(x=("f32", ["batch", 8]))
    product = model.op("MatMul", "x", model.weight("w", np.ones((8, 8), np.float32)))
    y = model.op("Softmax", model.op("Div", product, model.weight("t", np.float32(2))))
    assert broken(model.save(tmp_path, y)) == []
