"""Every model of the zoo as ONNX without PyTorch's exporter, static and dynamic, in ONNX Runtime against PyTorch."""

from __future__ import annotations

import onnx
import pytest

import edgecc
from edgecc.compiler import Job, compile_job
from edgecc.ir import capture
from edgecc.recipe import Recipe
from edgecc.registry import Registry
from tests.models import ZOO, build

OPSETS = (17, 23)
ACROSS = ("mobilenet_v3", "group_instance_norm", "swin", "bert_sdpa", "gpt2_eager", "llama_tied", "t5_encoder", "lstm_spotter", "wavenet")
ACROSS += ("conformer", "super_resolution", "dict_in_dict_out", "controller")


@pytest.fixture(scope="module")
def registry():
    return Registry.create()


def compile_model(name, registry, output, *, dynamic, **options):
    """The passes are checked elsewhere; here the artifact is compared with the model."""
    model, args, kwargs = build(name)
    program = capture.trace(model, args, kwargs, dims=ZOO[name].dims if dynamic else None)
    target = registry.create_target("onnxruntime", {"exporter": False, **options})
    recipe = Recipe(target="onnxruntime", options=edgecc.CompileOptions(verify="structure"))
    result = compile_job(Job(program, capture.eager(model, args, kwargs), target, recipe, registry, output))
    onnx.checker.check_model(str(output / "model.onnx"), full_check=True)
    return result


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("name", sorted(ZOO))
def test_a_model_of_the_zoo_matches_pytorch(name, dynamic, registry, tmp_path):
    checks = compile_model(name, registry, tmp_path / "out", dynamic=dynamic).report.checks
    assert all(c.distance.relative <= 1e-4 for c in checks)  # 1e-4: float32 rounding through some dozen layers


@pytest.mark.slow
@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("name", ACROSS)
def test_other_opsets_match_pytorch(name, opset, registry, tmp_path):
    checks = compile_model(name, registry, tmp_path / "out", dynamic=True, opset=opset).report.checks
    assert all(c.distance.relative <= 1e-4 for c in checks)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert_sdpa", "gpt2_sdpa", "llama_tied", "whisper_sdpa"])
def test_attention_as_one_node_matches_pytorch(name, registry, tmp_path):
    compile_model(name, registry, tmp_path / "out", dynamic=True, opset=23, attention=True)
    assert "Attention" in {n.op_type for n in onnx.load(tmp_path / "out" / "model.onnx").graph.node}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet_bottleneck", "unet", "vit", "swin", "lstm_spotter", "tcn"])
def test_a_dynamic_batch_costs_no_arithmetic_on_shapes(name, registry, tmp_path):
    compile_model(name, registry, tmp_path / "out", dynamic=True)
    kinds = [n.op_type for n in onnx.load(tmp_path / "out" / "model.onnx").graph.node]
    assert kinds.count("Shape") <= (1 if name == "vit" else 0)  # the class token of ViT is expanded to the batch
