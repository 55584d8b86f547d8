"""Lint rules T03, T04 and T12: what the tables say of operators."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from edgecc.targets.tensorrt.lint import lint, profiles
from edgecc.targets.tensorrt.lint.restrictions import CHECKS
from tests.targets.tensorrt.crafted import Model, broken

IMAGE = ("f32", ["batch", 3, 8, 8])
ROWS = ("f32", ["batch", 4])
ONE = ("i64", [1])


def test_an_operator_that_no_release_reads(tmp_path):
    model = Model(x=("f32", [2, 4, 4]))
    (finding,) = lint(model.save(tmp_path, model.op("Det", "x")), "10.15").findings
    assert (finding.rule, finding.severity, finding.node, finding.operator) == ("T03", "E", "det_0", "Det")
    assert finding.found == "TensorRT 10.15 does not support Det"


@pytest.mark.parametrize(("profile", "wanted"), [("10.15", ["E T03"]), ("11.1", ["W T05"])])
def test_swish_came_with_11(tmp_path, profile, wanted):
    model = Model(24, x=ROWS)
    assert broken(model.save(tmp_path, model.op("Swish", "x")), profile) == wanted


@pytest.mark.parametrize(("profile", "wanted"), [("10.1", ["E T03"]), ("10.15", [])])
def test_windows_came_after_10_1(tmp_path, profile, wanted):
    model = Model(x=ROWS)
    window = model.op("HannWindow", model.weight("size", np.int64(4)))
    assert broken(model.save(tmp_path, model.op("Mul", "x", window)), profile) == wanted


def test_dynamic_quantization_is_refused_once_with_what_to_write_instead(tmp_path):
    model = Model(x=ROWS)
    model.op("DynamicQuantizeLinear", "x", outputs=["q", "s", "z"])
    y = model.op("MatMulInteger", "q", model.weight("w", np.ones((4, 4), np.int8)), "z")
    report = lint(model.save(tmp_path, (y, "i32", ["batch", 4])), "10.15")
    assert [(f.rule, f.operator) for f in report.findings] == [("T03", "DynamicQuantizeLinear"), ("T03", "MatMulInteger")]
    assert "QDQ format" in report.findings[1].fix


def test_an_undocumented_type_is_warned_of(tmp_path):
    model = Model(x=("i32", ["batch", 4]))
    y = model.op("MatMul", "x", model.weight("w", np.ones((4, 4), np.int32)))
    (finding,) = lint(model.save(tmp_path, (y, "i32", ["batch", 4])), "10.15").findings
    assert (finding.rule, finding.severity) == ("T03", "W") and finding.found == "INT32 is not among its documented types: BF16, FP16, FP32"


def pool(operator, **attrs):
    model = Model(x=IMAGE)
    return model, model.op(operator, "x", **attrs)


def pool_1d():
    model = Model(x=("f32", ["batch", 3, 8]))
    return model, model.op("MaxPool", "x", kernel_shape=[2])


def lstm(**attrs):
    model = Model(x=("f32", [3, 2, 4]))
    directions = 2 if attrs.get("direction") == "bidirectional" else 1
    w, r = (model.weight(n, np.ones((directions, 32, k), np.float32)) for n, k in (("w", 4), ("r", 8)))
    return model, model.op("LSTM", "x", w, r, hidden_size=8, **attrs)


def reduced(constant):
    model = Model(x=ROWS, axes=ONE)
    return model, (model.op("ReduceSum", "x", model.weight("fixed", np.array([1])) if constant else "axes"), "f32", ["batch", 1])


def top_k(k, **attrs):
    model = Model(x=("f32", ["batch", 5000]))
    return model, model.op("TopK", "x", model.weight("k", np.array([k])), outputs=2, **attrs)


def resized(**attrs):
    model = Model(x=IMAGE)
    return model, model.op("Resize", "x", "", model.weight("scales", np.array([1, 1, 2, 2], np.float32)), **attrs)


def resized_by_tensor(axes):
    model = Model(x=("f32", [1, 3, 8, 8]), scales=("f32", [len(axes)]))
    return model, model.op("Resize", "x", "", "scales", mode="nearest", axes=axes)


def scattered(reduction):
    model = Model(x=("f32", [4, 4]), updates=("f32", [1, 4]))
    return model, model.op("ScatterND", "x", model.weight("indices", np.array([[1]])), "updates", reduction=reduction)


def sampled(*spatial):
    grid = ("f32", ["batch", *spatial, len(spatial)])
    model = Model(x=("f32", ["batch", 3, *spatial]), grid=grid)
    return model, model.op("GridSample", "x", "grid")


def summed(constant):
    model = Model(x=ROWS, axis=("i64", []))
    return model, model.op("CumSum", "x", model.weight("fixed", np.int64(1)) if constant else "axis")


def one_hot(constant):
    model = Model(x=("i64", ["batch"]), depth=("i64", []))
    return model, model.op(
        "OneHot", "x", model.weight("fixed", np.int64(4)) if constant else "depth", model.weight("v", np.float32([0, 1]))
    )


def normalized(outputs):
    model = Model(x=ROWS)
    return model, model.op("LayerNormalization", "x", model.weight("scale", np.ones(4, np.float32)), outputs=outputs)


def dropped(training):
    model = Model(x=ROWS)
    return model, model.op("Dropout", "x", model.weight("ratio", np.float32(0.5)), model.weight("training", np.bool_(training)))


def identity_like(size):
    model = Model(x=("f32", [size, 4]))
    return model, model.op("EyeLike", "x")


def hardmax(size):
    model = Model(x=("f32", [2, size]))
    return model, model.op("Hardmax", "x")


def deformed(*pads):
    model = Model(x=("f32", [1, 4, 8, 8]), offset=("f32", [1, 18, 8, 8]))
    return model, model.op("DeformConv", "x", model.weight("w", np.ones((4, 4, 3, 3), np.float32)), "offset", pads=pads)


def deformed_3d():
    model = Model(x=("f32", [1, 4, 8, 8, 8]), offset=("f32", [1, 81, 8, 8, 8]))
    return model, (model.op("DeformConv", "x", model.weight("w", np.ones((4, 4, 3, 3, 3), np.float32)), "offset"), "f32", [1, 4, 6, 6, 6])


def transformed(sizes):
    model = Model(x=("f32", sizes))
    step, window = model.weight("step", np.int64(4)), model.weight("window", np.ones(8, np.float32))
    return model, model.op("STFT", "x", step, window)


def rotated(kind):
    model = Model(23, x=("f32", [1, 2, 4, 8]), positions=(kind, [1, 4]))
    cos, sin = (model.weight(n, np.ones((16, 4), np.float32)) for n in ("cos", "sin"))
    return model, (model.op("RotaryEmbedding", "x", cos, sin, "positions"), "f32", [1, 2, 4, 8])


def cached(*sizes, **attrs):
    model = Model(24, cache=("f32", sizes), update=("f32", sizes))
    return model, model.op("TensorScatter", "cache", "update", **attrs)


def literal(numeric):
    model = Model(x=ROWS)
    if numeric:
        return model, model.op("Add", "x", model.op("Constant", value_float=1.0))
    sparse = helper.make_sparse_tensor(
        helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0]), helper.make_tensor("i", TensorProto.INT64, [1], [2]), [4]
    )
    return model, model.op("Add", "x", model.op("Constant", sparse_value=sparse))


def branched(then_sizes, else_sizes, names=("a", "b")):
    model = Model(condition=("bool", []))
    branches = []
    for name, sizes in zip(names, (then_sizes, else_sizes), strict=True):
        tensor = helper.make_tensor("value", TensorProto.FLOAT, sizes, np.ones(int(np.prod(sizes)), np.float32))
        node = helper.make_node("Constant", [], [name], name=f"constant_{name}_{len(branches)}", value=tensor)
        branches.append(helper.make_graph([node], name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes)]))
    y = model.op("If", "condition", then_branch=branches[0], else_branch=branches[1])
    return model, (y, "f32", ["n"] * len(then_sizes))


CASES = {
    "branches-agree": ((branched, [2], [2, 2]), (branched, [2], [3])),
    "branches-agree names": ((branched, [2], [3], ("a", "a")), (branched, [2], [3], ("a", "b"))),
    "constant": ((reduced, False), (reduced, True)),
    "constant CumSum": ((summed, False), (summed, True)),
    "constant OneHot": ((one_hot, False), (one_hot, True)),
    "deforms-1d-or-2d": ((deformed_3d,), (deformed, 0, 0, 0, 0)),
    "first-output-only": ((normalized, 2), (normalized, 1)),
    "int64-positions": ((rotated, "i32"), (rotated, "i64")),
    "k-below-3840": ((top_k, 3840), (top_k, 3839)),
    "layout-0": ((lstm, {"layout": 1}), (lstm, {"layout": 0})),
    "no-dilations": ((pool, "AveragePool", {"kernel_shape": [2, 2], "dilations": [2, 2]}), (pool, "AveragePool", {"kernel_shape": [2, 2]})),
    "no-input-forget": ((lstm, {"input_forget": 1}), (lstm, {})),
    "no-reduction": ((scattered, "add"), (scattered, "none")),
    "not-training": ((dropped, True), (dropped, False)),
    "numeric-constant": ((literal, False), (literal, True)),
    "pools-2d-or-3d": ((pool_1d,), (pool, "MaxPool", {"kernel_shape": [2, 2]})),
    "rank": ((sampled, 4, 4, 4), (sampled, 4, 4)),
    "real-signal": ((transformed, [1, 32, 2]), (transformed, [1, 32, 1])),
    "resizes-known-modes": ((resized, {"mode": "cubic"}), (resized, {"mode": "linear"})),
    "resizes-known-modes antialias": (
        (resized, {"mode": "linear", "antialias": 1}),
        (resized, {"mode": "nearest", "nearest_mode": "floor"}),
    ),
    "resizes-known-modes axes": ((resized_by_tensor, [2, 3]), (resized_by_tensor, [0, 1, 2, 3])),
    "same-activations": (
        (lstm, {"direction": "bidirectional", "activations": ["Sigmoid", "Tanh", "Tanh", "Sigmoid", "Tanh", "Relu"]}),
        (lstm, {"direction": "bidirectional"}),
    ),
    "same-pads": ((deformed, 1, 1, 0, 0), (deformed, 1, 1, 1, 1)),
    "scatters-rows-of-4d": ((cached, 1, 4, 8), (cached, 1, 2, 4, 8)),
    "scatters-rows-of-4d axis": ((cached, 1, 2, 4, 8, {"axis": 1}), (cached, 1, 2, 4, 8, {"axis": -2})),
    "sorted": ((top_k, 3, {"sorted": 0}), (top_k, 3)),
    "static-axis": ((hardmax, "n"), (hardmax, 4)),
    "static-input": ((identity_like, "n"), (identity_like, 4)),
}


def made(case):
    build, *words = case
    attrs = words.pop() if words and isinstance(words[-1], dict) else {}
    return build(*words, **attrs)


@pytest.mark.parametrize("name", CASES)
def test_a_restriction_is_kept_or_refused(tmp_path, name):
    bad, clean = CASES[name]
    control = {"W T15"} if name.startswith("branches") else set()
    model, y = made(bad)
    assert set(broken(model.save(tmp_path, y))) - control == {"E T04"}
    model, y = made(clean)
    assert set(broken(model.save(tmp_path, y))) - control == set()


def test_every_check_is_tested_and_named_by_a_table():
    named = {r.partition(":")[0] for v in profiles.versions() for rules in profiles.profile(v).restrictions.values() for r in rules}
    assert named == set(CHECKS) == {name.partition(" ")[0] for name in CASES}


def attended(sizes=("batch", 4, 16, 8), opset=23, outputs=1, **attrs):
    model = Model(opset, **{n: ("f32", list(sizes)) for n in "qkv"})
    return model, (model.op("Attention", "q", "k", "v", outputs=outputs, **attrs), "f32", list(sizes))


def test_attention_within_its_restrictions(tmp_path):
    model, y = attended()
    assert broken(model.save(tmp_path, y)) == []


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ({"sizes": ("batch", 16, 32), "q_num_heads": 4, "kv_num_heads": 4}, "Q has 3 dimensions, want 4"),
        ({"softcap": 30.0}, "it uses softcap"),
        ({"outputs": ["y", "", "", "scores"]}, "it uses qk_matmul_output"),
    ],
)
def test_attention_beyond_its_restrictions(tmp_path, case, message):
    model, y = attended(**case)
    report = lint(model.save(tmp_path, y), "10.15")
    assert {(f.rule, f.severity) for f in report.findings} == {("T12", "E")} and message in report.findings[0].found


def test_attention_is_unknown_to_10_1(tmp_path):
    model, y = attended(opset=23)
    assert broken(model.save(tmp_path, y), "10.1") == ["E T01", "E T03"]
