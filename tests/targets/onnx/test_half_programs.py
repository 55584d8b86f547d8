"""Programs that are of half precision already: lowered by edgecc, not by the exporter, and as near to float32 as rounding lets them."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from torch.nn import functional as F

import edgecc
from edgecc.compiler import Job, compile_job
from edgecc.errors import UnsupportedError
from edgecc.ir import capture
from edgecc.recipe import Recipe
from edgecc.registry import Registry
from edgecc.targets.onnx_common.half_runner import RoundedRunner
from edgecc.targets.onnx_common.lowering import lower
from edgecc.targets.onnx_common.precision import tolerance
from edgecc.targets.onnx_common.write import MODEL, write
from edgecc.testing import trace_function
from tests.models import ZOO, build
from tests.targets.onnx.test_precision import cnn, mlp
from tests.targets.onnx.test_quantization_models import minilm

HALF = {torch.float16: TensorProto.FLOAT16, torch.bfloat16: TensorProto.BFLOAT16}
BOTH = pytest.mark.parametrize("target", ["onnxruntime", "tensorrt"])


def compiled(model, args, target, output, *, kwargs=None, dims=None, **options):
    """Compile without the exporter; the report, and what the most faithful runtime gives for these inputs."""
    kwargs = kwargs or {}
    made = Registry.create().create_target(target, {"exporter": False, **options})
    program = capture.trace(model, args, kwargs, dims=dims)
    compile_job(Job(program, capture.eager(model, args, kwargs), made, Recipe(target=target), Registry.create(), output))
    runner = edgecc.runners(output)[0]
    given = zip(program.signature.inputs, program.examples, strict=True)
    found = runner.run({s.name: t.float().numpy() if t.dtype is torch.bfloat16 else t.numpy() for s, t in given})
    return json.loads((output / "report.json").read_text()), [found[s.name] for s in program.signature.outputs]


def halved(value, dtype):
    def one(v):
        return v.to(dtype) if isinstance(v, torch.Tensor) and v.is_floating_point() else v

    return torch.utils._pytree.tree_map(one, value)


def near(got, want, dtype):
    """Within 40 roundings of the float32 evaluation of the same half weights: see `edgecc.pipeline.numerics.ROUNDINGS`."""
    bound = 40 * torch.finfo(dtype).eps / 2
    assert np.isfinite(got).all()
    assert np.abs(got - want).max() <= bound * np.abs(want).max()
    assert float((got * want).sum() / np.linalg.norm(got) / np.linalg.norm(want)) >= (0.9999 if dtype is torch.float16 else 0.999)


@pytest.mark.parametrize(
    ("target", "dtype", "opset"),
    [
        ("onnxruntime", torch.float16, 20),
        ("tensorrt", torch.float16, 20),
        ("tensorrt", torch.bfloat16, 20),
        ("tensorrt", torch.bfloat16, 22),
    ],
)
@pytest.mark.parametrize("make", [mlp, cnn])
def test_a_half_model_is_as_near_to_float32_as_rounding_lets_it(make, target, dtype, opset, tmp_path):
    model, x = make()
    model, x = model.to(dtype), x.to(dtype)
    report, (got,) = compiled(model, (x,), target, tmp_path / "out", opset=opset)
    assert report["facts"]["exporter"] is False and report["facts"]["precision"] == ("fp16" if dtype is torch.float16 else "bf16")
    proto = onnx.load(tmp_path / "out" / MODEL)
    onnx.checker.check_model(str(tmp_path / "out" / MODEL), full_check=True)
    assert {v.type.tensor_type.elem_type for v in (*proto.graph.input, *proto.graph.output)} == {HALF[dtype]}
    assert TensorProto.FLOAT not in {i.data_type for i in proto.graph.initializer}
    missing = make is cnn and dtype is torch.bfloat16 and opset < 22  # Conv and pooling of bfloat16 are of opset 22
    assert ("Cast" in {n.op_type for n in proto.graph.node}) == missing
    near(np.asarray(got, np.float32), model.float()(x.float()).detach().numpy(), dtype)


def test_onnx_runtime_has_no_bfloat16(tmp_path):
    model, x = mlp()
    with pytest.raises(UnsupportedError, match="dtype bf16"):
        compiled(model.bfloat16(), (x.bfloat16(),), "onnxruntime", tmp_path / "out")


def rms(x):
    return F.rms_norm(x, (64,))


def log_sum(x):
    return torch.logsumexp(x, -1)


def norm(x):
    return torch.linalg.vector_norm(x, dim=-1)


def spread(x):
    return x.var(-1)


def softplus(x):
    return F.softplus(x)


def mish(x):
    return F.mish(x)


@pytest.mark.parametrize(("function", "scale"), [(rms, 300), (log_sum, 30), (norm, 300), (spread, 30), (softplus, 19), (mish, 19)])
def test_squares_and_exponentials_in_between_do_not_overflow(function, scale, tmp_path):
    """300^2, e^30 and e^19 are beyond float16, whose largest number is 65504; the results are not."""
    x = (scale * torch.linspace(0.1, 1, 4 * 64).reshape(4, 64)).half()
    program = trace_function(function, x)
    write(lower(program, 20), tmp_path)
    onnx.checker.check_model(str(tmp_path / MODEL), full_check=True)
    got = RoundedRunner(tmp_path / MODEL, 1, "", "fp16").run({"x": x.numpy()})[program.signature.outputs[0].name]
    want = function(x.float()).numpy()
    assert np.isfinite(want.astype(np.float16)).all()
    np.testing.assert_allclose(np.asarray(got, np.float32), want, rtol=2e-3)  # the rounding of operand and result, 2^-11 each


def test_a_mask_of_minus_infinity_is_a_number_that_float16_has(tmp_path):
    def attend(q, mask):
        return (q @ q.transpose(-1, -2)).masked_fill(~mask, float("-inf")).softmax(-1) @ q

    q, mask = torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(0)).half(), torch.ones(8, 8, dtype=torch.bool).tril()
    program = trace_function(attend, q, mask)
    module = program.module
    _, (got,) = compiled(module, (q, mask), "tensorrt", tmp_path / "out")
    held = [onnx.numpy_helper.to_array(i) for i in onnx.load(tmp_path / "out" / MODEL).graph.initializer]
    assert all(np.isfinite(a).all() for a in held if a.dtype == np.float16)
    near(np.asarray(got, np.float32), attend(q.float(), mask).numpy(), torch.float16)


@pytest.mark.slow
@BOTH
def test_minilm_in_half(target, tmp_path):
    program = minilm()
    want = program(*program.examples)[0].numpy()
    module = program.module.half()
    given = dict(zip(("input_ids", "attention_mask"), program.examples, strict=True))
    report, (got, _) = compiled(module, tuple(given.values()), target, tmp_path / "out")
    assert report["facts"]["exporter"] is False
    near(np.asarray(got, np.float32), want, torch.float16)  # rounding the weights is one rounding more


@pytest.mark.slow
@BOTH
def test_a_llama_in_half(target, tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=1000, use_cache=False)).eval().half()
    ids = torch.randint(0, 1000, (2, 16))
    report, (got,) = compiled(model, (), target, tmp_path / "out", kwargs={"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    assert report["facts"]["exporter"] is False and report["size_bytes"]["model"] <= 1.1 * report["size_bytes"]["original_weights"]
    with torch.no_grad():
        want = model.float()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.numpy()
    near(np.asarray(got, np.float32), want, torch.float16)


#: A few of each kind; all 54 were run by hand, see docs/decisions.md.
SAMPLE = (
    "mobilenet_v3",
    "group_instance_norm",
    "yolo_head",
    "swin",
    "gpt2_sdpa",
    "t5_encoder",
    "lstm_spotter",
    "dict_in_dict_out",
    "controller",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLE)
@BOTH
def test_models_of_the_zoo_in_half(name, target, tmp_path):
    model, args, kwargs = build(name)
    args, kwargs = halved((args, kwargs), torch.float16)
    report, _ = compiled(model.half(), args, target, tmp_path / "out", kwargs=kwargs, dims=ZOO[name].dims)
    assert report["verify"]["cosine"] >= 0.9999 and report["verify"]["relative"] <= tolerance("fp16") / 4


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLE)
@BOTH
def test_models_of_the_zoo_made_half(name, target, tmp_path):
    model, args, kwargs = build(name)
    report, _ = compiled(model, args, target, tmp_path / "out", kwargs=kwargs, dims=ZOO[name].dims, precision="fp16")
    assert report["verify"]["cosine"] >= 0.9999 and report["verify"]["relative"] <= tolerance("fp16") / 4
