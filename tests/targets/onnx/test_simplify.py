"""onnxsim behind a gate, and the ORT format: what is kept, what is not and why, and that both are run."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import edgecc
from edgecc.registry import Registry
from edgecc.targets.onnx_common.lowering import lower
from edgecc.targets.onnx_common.simplify import simplify
from edgecc.targets.onnx_common.write import DATA, MODEL, write
from edgecc.testing import trace_function
from tests.targets.onnx.test_onnx_model import Tied

X = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))


def wasteful(folder, *added):
    """A model with nodes that do nothing and a weight that is made from two others; `added` make `y` from `product`."""
    weight = np.random.default_rng(0).standard_normal((64, 64), np.float32)
    nodes = [
        helper.make_node("Identity", ["x"], ["same"], "same"),
        helper.make_node("Transpose", ["same"], ["turned"], "turned", perm=[1, 0]),
        helper.make_node("Transpose", ["turned"], ["back"], "back", perm=[1, 0]),
        helper.make_node("Add", ["first", "second"], ["sum"], "sum"),
        helper.make_node("MatMul", ["back", "sum"], ["product" if added else "y"], "product"),
        *added,
    ]
    ends = [[helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 64])] for n in ("x", "y")]
    weights = [numpy_helper.from_array(weight, "first"), numpy_helper.from_array(weight * 2, "second")]
    graph = helper.make_graph(nodes, "wasteful", *ends, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), folder / MODEL)
    return torch.from_numpy(weight * 3)


@pytest.mark.slow
def test_a_smaller_model_with_the_same_numbers_is_kept(tmp_path):
    weight = wasteful(tmp_path)
    before = (tmp_path / MODEL).stat().st_size
    outcome = simplify(tmp_path, ["x"], [(X,)], 1e-5)
    proto = onnx.load(tmp_path / MODEL)
    assert outcome.why == "" and outcome.nodes == (5, len(proto.graph.node)) and outcome.nodes[1] < 5
    assert outcome.bytes == (before, (tmp_path / MODEL).stat().st_size) and outcome.bytes[1] < 0.6 * before
    assert str(outcome).startswith(f"onnxsim's result is kept; 5 -> {outcome.nodes[1]} nodes, ")
    got = ReferenceEvaluator(proto).run(None, {"x": X.numpy()})[0]
    np.testing.assert_allclose(got, (X @ weight).numpy(), atol=1e-4)  # sums of 64 products
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "n"


@pytest.mark.slow
def test_a_tied_weight_is_not_stored_twice(tmp_path):
    torch.manual_seed(0)
    ids = torch.randint(0, 8192, (2, 5))
    write(lower(trace_function(Tied(), ids), 20), tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in (MODEL, DATA)}
    outcome = simplify(tmp_path, ["ids"], [(ids,)], 1e-5)
    assert outcome.why and outcome.facts["kept"] is False
    assert before == {p.name: p.read_bytes() for p in tmp_path.iterdir()}


@pytest.mark.slow
def test_a_model_that_gives_other_numbers_is_not_kept(tmp_path):
    noise = helper.make_node("RandomUniform", [], ["noise"], "noise", shape=[1, 64])
    wasteful(tmp_path, noise, helper.make_node("Add", ["product", "noise"], ["y"], "y"))
    before = (tmp_path / MODEL).read_bytes()
    outcome = simplify(tmp_path, ["x"], [(X,)], 1e-5)
    assert outcome.why.startswith("the outputs differ by ") and outcome.nodes[1] < 7
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {MODEL: before}


def test_without_a_sample_nothing_is_tried(tmp_path):
    wasteful(tmp_path)
    assert simplify(tmp_path, ["x"], [], 1e-5).why == "there is no sample to compare it on"


@pytest.mark.slow
def test_what_onnx_runtime_does_not_run_is_not_kept(tmp_path):
    wasteful(tmp_path, helper.make_node("NoSuchOperator", ["product"], ["y"], "y"))
    assert simplify(tmp_path, ["x"], [(X,)], 1e-5).why.startswith("ONNX Runtime does not run it: ")


@pytest.mark.slow
def test_a_failure_of_onnxsim_is_a_reason(tmp_path):
    ids = torch.randint(0, 8192, (2, 5))
    write(lower(trace_function(Tied(), ids), 20), tmp_path)
    (tmp_path / DATA).unlink()
    outcome = simplify(tmp_path, ["ids"], [(ids,)], 1e-5)
    assert outcome.why.startswith("it failed with exit code 1: ") and outcome.nodes == (6, None)


def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 4))


def made(options):
    return Registry.create().create_target("onnxruntime", options)


@pytest.mark.slow
def test_the_effect_stands_in_the_report_and_the_remarks(tmp_path):
    result = edgecc.compile(net(), torch.ones(1, 3, 8, 8), target=made({"simplify": True}), output=tmp_path / "out")
    facts = json.loads((tmp_path / "out" / "report.json").read_text())["facts"]
    nodes = len(onnx.load(tmp_path / "out" / MODEL).graph.node)
    assert facts["nodes"] == nodes and facts["simplified"]["nodes"][0] == 4
    assert facts["simplified"]["kept"] is False and facts["simplified"]["why"].startswith("it has not fewer")
    assert [r.message for r in result.report.remarks.of("onnxruntime")] == [
        m for m in [r.message for r in result.report.remarks] if m.startswith("onnxsim's result is not kept: it has not fewer")
    ]


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"cpu": "arm"}, {"precision": "fp16", "float_io": False}], ids=["x86", "arm", "fp16"])
def test_the_ort_format_is_run_too(options, tmp_path):
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    result = edgecc.compile(net(), x, target=made({"ort_format": True, **options}), output=tmp_path / "out")
    last = result.report.checks[-1]
    assert "model.ort" in last.runtime and last.distance.cosine > 0.9999
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["facts"]["model.ort"] == manifest["files"]["model.ort"]["bytes"] == (tmp_path / "out" / "model.ort").stat().st_size
    got = edgecc.runners(tmp_path / "out")[-1].run({"input": x.numpy()})["output"]
    np.testing.assert_allclose(got, net()(x).detach().numpy(), atol=5e-3 if options.get("precision") else 1e-5)  # a few roundings
