"""FP8 and NVFP4 in the spelling of `lowering/float8.py`: as ONNX says them, against PyTorch and closed forms, and by the rules of each profile."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from torch import nn
from torch.nn import functional as F

import edgecc
from edgecc.errors import UnsupportedError, UsageError
from edgecc.ir.quantized import quantized
from edgecc.registry import Registry
from edgecc.targets.onnx_common.agreement import agreement
from edgecc.targets.onnx_common.runtime import OnnxRuntimeRunner
from edgecc.targets.tensorrt.lint import lint
from edgecc.testing import trace_function
from tests.targets.onnx import quantize_host as host
from tests.targets.onnx.qdq_host import random, refusal
from tests.targets.onnx.test_agreement import edit

FP8 = (0, -448, 448, torch.float8_e4m3fn)
E2M1 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])


def fake_fp8(x, scale):
    return quantized.dequantize_per_tensor(torch.clamp(x / scale, -448, 448).to(torch.float8_e4m3fn), scale, *FP8)


class Float8(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        w = random(32, 64)
        self.scale = float(w.abs().max()) / 448
        self.register_buffer("w", torch.clamp(w / self.scale, -448, 448).to(torch.float8_e4m3fn))

    def forward(self, x):
        return F.linear(fake_fp8(x, 0.01), quantized.dequantize_per_tensor(self.w, self.scale, *FP8))


class Nvfp4(nn.Module):
    """W = E2M1 numbers * FP8 scales of 16 each * one float32."""

    def __init__(self, rows=32, columns=64) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        signs = torch.randint(0, 2, (rows, columns), generator=generator) * 2 - 1
        self.numbers = E2M1[torch.randint(0, 8, (rows, columns), generator=generator)] * signs
        self.register_buffer("twice", (2 * self.numbers).to(torch.int8))
        self.register_buffer("scales", (torch.rand(rows, columns // 16, generator=generator) * 400 + 1).to(torch.float8_e4m3fn))
        self.scale = 2.0**-12  # of half a number: 2^-11 of a number

    def weight(self):
        scales = quantized.dequantize_per_tensor(self.scales, self.scale, *FP8)
        return quantized.dequantize_per_channel_group(self.twice, scales, None, -12, 12, torch.int8, 16, torch.float32)

    def forward(self, x):
        return F.linear(x, self.weight())


def compiled(model, x, folder, **options):
    target = Registry.create().create_target("tensorrt", {"exporter": False, **options})
    result = edgecc.compile(model, x, target=target, output=folder)
    onnx.checker.check_model(str(folder / "model.onnx"), full_check=True)
    return result.report, onnx.load(folder / "model.onnx").graph


def held(graph):
    return {t.name: t for t in graph.initializer}


@pytest.mark.parametrize("opset", [19, 20, 23])
def test_fp8_is_quantize_and_dequantize_linear(opset, tmp_path):
    report, graph = compiled(Float8(), random(2, 3, 64), tmp_path / "out", opset=opset)
    assert [n.op_type for n in graph.node] == ["QuantizeLinear", "DequantizeLinear", "DequantizeLinear", "MatMul"]
    stored = held(graph)
    assert [(stored[n.input[0]].data_type, list(stored[n.input[0]].dims)) for n in graph.node if n.input[0] in stored] == [
        (TensorProto.FLOAT8E4M3FN, [64, 32])
    ]
    agreed = report.as_dict()["verify"]["quantized"]
    assert (agreed["calls"], agreed["unchecked"], agreed["within_one_step"]) == (1, 0, 1.0) and agreed["equal"] >= 0.999
    assert agreed["outputs"]["cosine"] >= 0.9999999
    assert report.checks[0].distance.cosine >= 0.9999 and "without its Q/DQ fusions" in report.checks[0].runtime
    assert "runs in ONNX Runtime, without its Q/DQ fusions, with cosine" in report.verdict


def test_numbers_of_fp8_are_those_of_pytorch_to_the_bit(tmp_path):
    """Ties, subnormals and both ends; 2^-9 is the least number, 448 the largest."""
    x = torch.cat([torch.linspace(-500, 500, 4001), torch.linspace(-0.02, 0.02, 401), torch.tensor([17.0, 19.0, 1e9, -1e9, 2.0**-10])])
    program = trace_function(lambda x: fake_fp8(x, 0.5), x)
    target = Registry.create().create_target("tensorrt", {"exporter": False})
    file = host.written(host.optimized(program, target), target, tmp_path)
    got = OnnxRuntimeRunner(file, 1, fusions=False).run({"x": x.numpy()})["output"]
    assert (got == program(x)[0].numpy()).all() and got.max() == 224.0


@pytest.mark.parametrize("opset", [23, 24])
@pytest.mark.parametrize("sizes", [(3, 64), (2, 3, 64)])
def test_nvfp4_is_two_dequantize_linear_in_a_row(sizes, opset, tmp_path):
    model, x = Nvfp4(), random(*sizes)
    report, graph = compiled(model, x, tmp_path / "out", opset=opset)
    stored, (first, second) = held(graph), [n for n in graph.node if n.op_type == "DequantizeLinear"]
    assert second.input[1] == first.output[0] and {a.name: a.i for a in second.attribute}["block_size"] == 16
    kinds = [stored[n].data_type for n in (first.input[0], first.input[1], second.input[0])]
    assert kinds == [TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT, TensorProto.FLOAT4E2M1]
    assert len(stored[second.input[0]].raw_data) == 32 * 64 // 2
    numbers = onnx.numpy_helper.to_array(stored[second.input[0]]).astype(np.float32)
    numbers = numbers if len(sizes) == 2 else numbers.T  # MatMul wants it transposed, Gemm does not
    np.testing.assert_array_equal(numbers, model.numbers.numpy())
    want = F.linear(x, (model.numbers.reshape(32, 4, 16) * model.scales.float()[..., None] * 2 * model.scale).reshape(32, 64))
    got = edgecc.runners(tmp_path / "out")[0].run({"x": x.numpy()})["output"]
    np.testing.assert_allclose(got, want.numpy(), rtol=1e-5, atol=1e-4)  # float32 sums of 64 terms up to 10
    assert report.checks[0].distance.relative <= 1e-5
    assert "reference evaluator" in report.checks[0].runtime and "ONNX Runtime was not run" in report.checks[0].runtime
    assert "ONNX Runtime was not run" in report.verdict and "runs in ONNX Runtime" not in report.verdict
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["facts"]["floats"] == "fp4"


@pytest.mark.parametrize("factor", [1.0, 1.1])
def test_fp8_is_compared_call_by_call(factor, tmp_path):
    """A scale that is a tenth too large in the file makes other numbers of the second activation."""
    target = Registry.create().create_target("tensorrt", {"exporter": False})
    layer = Float8()

    def model(x):
        return fake_fp8(layer(x), 0.05)

    program = host.optimized(trace_function(model, random(4, 64)), target)
    host.written(program, target, tmp_path)
    wrong = np.float32(layer.scale)
    edit(tmp_path, lambda _, a: a * np.float32(factor) if a.shape == () and a.dtype == np.float32 and a == wrong else None)
    load = partial(OnnxRuntimeRunner, threads=1, fusions=False)
    found = agreement(program, tmp_path / "model.onnx", [program.examples], 1e-4, load)
    assert len(found.calls) == 2 and found.unchecked == 0
    assert [bool(c.broken) for c in found.calls] == [False, factor != 1.0]


def test_profiles_take_what_their_release_reads(tmp_path):
    compiled(Float8(), random(2, 3, 64), tmp_path / "fp8")
    compiled(Nvfp4(), random(2, 3, 64), tmp_path / "fp4", opset=23)
    for profile in ("10.15", "11.1"):
        for kind in ("fp8", "fp4"):
            assert lint(tmp_path / kind / "model.onnx", profile).errors == 0, (kind, profile)
    assert lint(tmp_path / "fp8" / "model.onnx", "10.1").errors == 0
    found = lint(tmp_path / "fp4" / "model.onnx", "10.1").findings
    refused = [f for f in found if f.severity == "E"]
    assert {f.rule for f in refused} == {"T01", "T06"} and any("FLOAT4E2M1" in f.found or "FP4" in f.found for f in refused), refused


def test_what_is_no_fp8_of_onnx_is_refused_with_its_spelling():
    x, w = random(2, 64), Float8()
    spelled = "spell it torch.clamp(x / scale, -448, 448).to(torch.float8_e4m3fn)"

    def bare(x):
        return quantized.dequantize_per_tensor(x.to(torch.float8_e4m3fn), 1.0, *FP8)

    def rounded(x):
        return quantized.dequantize_per_tensor(quantized.quantize_per_tensor(x, 0.1, *FP8), 0.1, *FP8)

    def unscaled(x):
        return torch.clamp(x / 0.5, -448, 448).to(torch.float8_e4m3fn).to(torch.float32)

    assert f"does not saturate: {spelled}" in refusal(bare, x, exporter=False)
    assert "rounds it to an integer before FP8" in refusal(rounded, x)
    assert "read without its scale" in refusal(unscaled, x, exporter=False)
    assert "FP8 is of opset 19, and opset is 18" in refusal(w, x, opset=18)
    assert "FP4 is of opset 23, and opset is 20" in refusal(Nvfp4(), x)
    odd = Nvfp4()
    odd.twice[0, 0] = 5
    assert "[5] are not twice a number of E2M1" in refusal(odd, x, opset=23)


def test_onnx_runtime_and_half_precision_have_none(tmp_path):
    for model, options in ((Float8(), {}), (Nvfp4(), {"opset": 23})):
        with pytest.raises(UnsupportedError, match="FP8 and FP4, which ONNX Runtime's optimizer makes an invalid graph of"):
            edgecc.compile(model, random(2, 64), target=Registry.create().create_target("onnxruntime", options), output=tmp_path / "out")
    with pytest.raises(UsageError, match="precision is fp16, and the program has FP8 or FP4"):
        compiled(Float8(), random(2, 64), tmp_path / "out", precision="fp16")
    assert not (tmp_path / "out").exists()
