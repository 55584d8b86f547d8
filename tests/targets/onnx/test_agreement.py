"""Quantized activations are compared call by call: an error that the bound of the whole lets through is found and named."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import edgecc
from edgecc.bounds import QUANTIZED
from edgecc.errors import ContractError
from edgecc.ir.quantized import quantized
from edgecc.pipeline.context import PassContext
from edgecc.pipeline.numerics import Distance
from edgecc.report import RuntimeCheck
from edgecc.targeting.agreement import CallAgreement
from edgecc.targeting.base import Lowered
from edgecc.targets.onnx_common.agreement import agreement
from edgecc.targets.onnx_common.runtime import OnnxRuntimeRunner
from edgecc.targets.onnxruntime.target import OnnxRuntime
from edgecc.targets.tensorrt.target import TensorRT
from edgecc.testing import trace_function
from edgecc.verification import broken
from tests.targets.onnx import quantize_host as host
from tests.targets.onnx.qdq_host import INT8, UINT8, fake_quantized, random, weight

LAYERS, WIDTH, ROWS = 4, 64, 16


class Net(nn.Module):
    """Linear layers and ReLU, every activation and weight quantized."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ParameterList([random(WIDTH, WIDTH, seed=k) / 6 for k in range(LAYERS)])

    def forward(self, x):
        for layer in self.layers:
            x = F.relu(F.linear(fake_quantized(x, 0.05, 0, INT8), weight(layer)))
        return x


def edit(directory: Path, change) -> None:
    """Change an initializer of the written model: `change(name, array)` gives its new value, or None."""
    model = onnx.load(directory / "model.onnx")
    for tensor in model.graph.initializer:
        made = change(tensor.name, onnx.numpy_helper.to_array(tensor))
        if made is not None:
            tensor.CopyFrom(onnx.numpy_helper.from_array(made, tensor.name))
    onnx.save(model, directory / "model.onnx")


@dataclass(frozen=True)
class WrongScale(OnnxRuntime):
    """Writes the scales of the third weight by a twentieth too large."""

    name: ClassVar[str] = "wrong_scale"

    def lower(self, program, directory, context) -> Lowered:
        lowered = super().lower(program, directory, context)
        linear = program.calls(torch.ops.aten.linear.default)[2]
        scales = program.weight(linear.args[1].args[1]).numpy()
        edit(directory, lambda _, array: array * np.float32(1.05) if array.shape == (WIDTH,) and np.array_equal(array, scales) else None)
        return lowered


def test_a_wrong_scale_that_the_bound_of_the_whole_lets_through_is_caught_where_it_is_made(tmp_path):
    x = random(ROWS, WIDTH)
    seen = []

    @dataclass(frozen=True)
    class Watched(WrongScale):
        def agreement(self, program, directory, manifest, samples):
            (runner,) = self.runners(directory, manifest)
            got = runner.run({"x": x.numpy()})["output"]
            want = Net()(x).detach()
            noise = torch.from_numpy(got) - want
            sqnr = 20 * float(torch.log10(want.norm() / noise.norm()))
            far = Distance(False, 0.0, float(noise.abs().max() / want.abs().max()), 0.0, sqnr)
            seen.append(broken([RuntimeCheck("", 1, far)], *QUANTIZED))
            return super().agreement(program, directory, manifest, samples)

    with pytest.raises(ContractError) as caught:
        edgecc.compile(Net(), x, target=Watched(), output=tmp_path / "out")
    assert seen == [[]]
    first = caught.value.message.splitlines()[1]
    assert "%quantize_per_tensor_3 of %relu_2" in first and "test_agreement.py:" in first and "want 99.9% and 0.9999" in first
    assert len(caught.value.message.splitlines()) == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("target", [OnnxRuntime(), OnnxRuntime(cpu="arm"), TensorRT()], ids=["x86", "arm", "tensorrt"])
def test_a_right_model_agrees_and_says_so(target, tmp_path):
    result = edgecc.compile(Net(), random(ROWS, WIDTH), target=target, options=edgecc.CompileOptions(cases=2), output=tmp_path / "out")
    found = json.loads((tmp_path / "out" / "report.json").read_text())["verify"]["quantized"]
    assert (found["calls"], found["unchecked"], found["integers"]) == (LAYERS, 0, 2 * LAYERS * ROWS * WIDTH)
    assert found["equal"] >= 0.999 and found["within_one_step"] == 1.0 and found["cosine"] >= 0.9999
    assert found["outputs"]["cosine"] >= 0.999999 and result.report.agreement.broken() == []
    assert not (tmp_path / "out" / "exposed.onnx").exists()


def compared(program, tmp_path, change=lambda name, array: None, target=TensorRT(exporter=False)):  # noqa: B008
    target.lower(host.optimized(program, target), tmp_path, PassContext())
    edit(tmp_path, change)
    own = target.dialect.rewrite(program)
    return agreement(own, tmp_path / "model.onnx", [program.examples], 1e-4, lambda file: OnnxRuntimeRunner(file, 1))


def test_a_zero_point_that_is_one_off_is_not_excused_as_rounding(tmp_path):
    def model(x):
        return fake_quantized(fake_quantized(x, 0.1, 4, INT8).relu(), 0.1, -5, INT8)

    def change(name, array):
        return array + np.int8(1) if array.shape == () and array.dtype == np.int8 and array == -5 else None

    program, target = trace_function(model, random(8, 32)), OnnxRuntime(activations="s8", exporter=False)
    assert compared(program, tmp_path, target=target).broken() == []
    (line,) = compared(program, tmp_path, change, target).broken()[:1]
    assert "%quantize_per_tensor_1 of %relu" in line and "100.00% of 256 integers within one step" in line


def test_a_number_on_the_edge_of_two_steps_may_go_either_way(tmp_path):
    """0.05 * 2.5 is on an edge; a bias that is 1e-6 larger in the file moves every such number."""
    bias = torch.full((8,), 0.125)

    def change(name, array):
        return array + np.float32(1e-6) if array.shape == (8,) else None

    def model(x):
        return fake_quantized(x + bias, 0.05, 0, INT8)

    program = trace_function(model, torch.tensor([[0.0] * 7 + [6.0]]))
    found = compared(program, tmp_path, change)
    assert found.broken() == [] and found.calls[0].equal < 0.5 and found.calls[0].cosine == 1.0


@pytest.mark.parametrize("limits", [(0, 127, torch.uint8), UINT8])
def test_integers_that_are_outputs_and_narrow_ranges_are_found_by_their_names(limits, tmp_path):
    def model(x):
        q = quantized.quantize_per_tensor(x * 2, 0.1, 20, *limits)
        return q, quantized.dequantize_per_tensor(q, 0.1, 20, *limits)

    found = compared(trace_function(model, random(4, 8) * 10), tmp_path, target=OnnxRuntime(exporter=False))
    assert [(c.integers, c.equal) for c in found.calls] == [(32, 1.0)] and found.unchecked == 0 and found.broken() == []


@pytest.mark.parametrize("eps", [2.0**-12, torch.finfo(torch.float32).eps])
def test_scales_that_are_computed_are_compared_too(eps, tmp_path):
    weights = [random(32, 32, seed=seed) for seed in range(2)]

    def model(x):
        for w in weights:
            scale, zero_point = quantized.choose_qparams(x, -128, 127, eps, torch.int8)
            q = quantized.quantize_per_tensor(x, scale, zero_point, *INT8)
            x = F.linear(quantized.dequantize_per_tensor(q, scale, zero_point, *INT8), weight(w))
        return x

    found = compared(trace_function(model, random(3, 32)), tmp_path, target=OnnxRuntime(exporter=False))
    assert len(found.calls) == 2 and found.unchecked == 0 and found.broken() == []


def test_a_program_without_quantized_activations_has_nothing_to_compare(tmp_path):
    w = random(8, 8)
    assert compared(trace_function(lambda x: F.linear(x, weight(w)), random(2, 8)), tmp_path) is None


def test_calls_that_a_file_does_not_name_are_counted_and_nothing_is_claimed(tmp_path):
    program = trace_function(Net(), random(ROWS, WIDTH))
    target = TensorRT(exporter=False)
    target.lower(host.optimized(program, target), tmp_path, PassContext())
    model = onnx.load(tmp_path / "model.onnx")
    for node in model.graph.node:
        for names in (node.input, node.output):
            for k, name in enumerate(names):
                names[k] = "renamed" if name == "quantize_per_tensor_1" else name
    onnx.save(model, tmp_path / "model.onnx")
    found = agreement(program, tmp_path / "model.onnx", [program.examples], 1e-4, lambda file: OnnxRuntimeRunner(file, 1))
    assert found.unchecked == 1 and len(found.calls) == LAYERS - 1 and found.as_dict()["unchecked"] == 1


@pytest.mark.parametrize(("near", "cosine", "holds"), [(1.0, 1.0, True), (0.999, 0.9999, True), (0.9989, 1.0, False), (1.0, 0.9998, False)])
def test_both_the_steps_and_the_cosine_must_hold(near, cosine, holds):
    assert (CallAgreement("%q", 1000, 0.9, near, cosine).broken == "") == holds
