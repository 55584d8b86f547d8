"""Single operators of quantization in ONNX Runtime against closed forms and PyTorch, and what each dialect refuses."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgecc.errors import UsageError
from edgecc.ir import archive
from edgecc.ir.quantized import quantized
from edgecc.ir.signature import Dim
from edgecc.targets.onnx_common.runtime import OnnxRuntimeRunner
from edgecc.targets.tensorrt.lint import lint
from edgecc.testing import operators, trace_function
from tests.targets.onnx.onnx_host import compiled
from tests.targets.onnx.qdq_host import (
    ARM,
    INT8,
    TENSORRT,
    UINT8,
    X86,
    fake_quantized,
    initializers,
    kinds,
    model_of,
    random,
    refusal,
    target,
    weight,
)


@pytest.mark.parametrize("dialect", [TENSORRT, X86, ARM], ids=["tensorrt", "x86", "arm"])
def test_ties_go_to_the_even_step_and_the_ends_saturate(dialect):
    x = torch.tensor([-1e9, -64.5, -1.25, -0.75, -0.25, 0.0, 0.25, 0.75, 1.25, 63.5, 64.0, 1e9])
    program = trace_function(lambda x: fake_quantized(x, 0.5, 0, INT8), x)
    want = [-64.0, -64.0, -1.0, -1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 63.5, 63.5, 63.5]
    assert compiled(program, dialect=dialect)(x)[0].tolist() == want == program(x)[0].tolist()


@pytest.mark.parametrize("dialect", [X86, ARM], ids=["x86", "arm"])
@pytest.mark.parametrize(("zero_point", "limits"), [(7, INT8), (-128, INT8), (131, UINT8)])
def test_a_zero_point_moves_the_range_and_zero_stays_zero(dialect, zero_point, limits):
    x = torch.linspace(-20, 20, 401)
    program = trace_function(lambda x: fake_quantized(x, 0.25, zero_point, limits), x)
    got = compiled(program, dialect=dialect)(x)[0]
    low, high = (0.25 * (end - zero_point) for end in limits[:2])
    np.testing.assert_array_equal(got, np.clip(np.round(x.numpy() / 0.25) * 0.25, low, high).astype(np.float32))
    assert got[200] == 0.0


@pytest.mark.parametrize("limits", [(0, 127, torch.uint8), (-64, 63, torch.int8)])
def test_a_narrow_range_is_clipped(limits):
    x = torch.linspace(-200, 200, 401)
    program = trace_function(lambda x: fake_quantized(x, 1.0, 3, limits), x)
    got = compiled(program, dialect=X86)(x)[0]
    np.testing.assert_array_equal(got, np.clip(x.numpy(), limits[0] - 3, limits[1] - 3))


def test_int8_activations_become_uint8_on_x86_alone(tmp_path):
    def model(x):
        return fake_quantized(x, 0.5, -3, INT8)

    for options, want in (({}, np.uint8(125)), ({"cpu": "arm"}, np.int8(-3)), ({"activations": "s8"}, np.int8(-3))):
        _, file = model_of(model, random(3), folder=tmp_path, **options)
        zeros = [v for k, v in initializers(file).items() if k.startswith("zero")]
        assert [(z.dtype, int(z)) for z in zeros] == [(want.dtype, int(want))]


def test_integers_that_others_read_stay_what_they_are():
    x = random(3, 4)
    program = trace_function(lambda x: quantized.quantize_per_tensor(x, 0.1, 0, *INT8), x)
    got = compiled(program, dialect=X86)(x)[0]
    assert got.dtype == np.int8 and (got == program(x)[0].numpy()).all()


@pytest.mark.parametrize("name", ["tensorrt", "onnxruntime"])
def test_scales_go_along_the_output_channels_of_what_reads_the_weight(name, tmp_path):
    image, rows, tokens = random(1, 16, 8, 8), random(3, 16), random(2, 3, 16)
    conv, turned, dense = random(24, 16, 3, 3), random(16, 24, 3, 3), random(24, 16)

    def model(image, rows, tokens):
        image, rows, tokens = (fake_quantized(x, 0.03, 0, INT8) for x in (image, rows, tokens))
        convolved = F.conv2d(image, weight(conv)), F.conv_transpose2d(image, weight(turned, 1))
        return (*convolved, F.linear(rows, weight(dense)), F.linear(tokens, weight(dense * 2)))

    program, file = model_of(model, image, rows, tokens, folder=tmp_path, name=name)
    graph, held = onnx.load(file).graph, initializers(file)
    makers = {n.output[0]: n for n in graph.node}
    axes = {}
    for node in graph.node:
        if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            source = makers[node.input[1]]
            axes[node.op_type] = source.attribute[0].i if source.attribute else 1, held[source.input[0]].shape
            assert held[source.input[0]].dtype == held[source.input[2]].dtype == np.int8
    gemm = {} if name == "onnxruntime" else {"Gemm": (0, (24, 16))}  # ONNX Runtime multiplies integers in MatMul alone
    assert axes == {"Conv": (0, (24, 16, 3, 3)), "ConvTranspose": (1, (16, 24, 3, 3)), "MatMul": (1, (16, 24)), **gemm}
    assert "Transpose" not in kinds(file)
    found = OnnxRuntimeRunner(file, 1).run({"image": image.numpy(), "rows": rows.numpy(), "tokens": tokens.numpy()})
    for spec, want in zip(program.signature.outputs, program(image, rows, tokens), strict=True):
        np.testing.assert_allclose(found[spec.name], want.numpy(), atol=2e-5)  # float32 sums of some hundred terms


@pytest.mark.parametrize("sizes", [(3, 16), (2, 3, 16)], ids=str)
@pytest.mark.parametrize("bias", [None, random(24)], ids=["no bias", "bias"])
def test_onnx_runtime_multiplies_integers(bias, sizes, tmp_path):
    w, x = random(24, 16), random(*sizes, seed=1)
    program, file = model_of(lambda x: F.linear(fake_quantized(x, 0.05, 0, INT8), weight(w), bias), x, folder=tmp_path)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "optimized.onnx"), 3
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    assert "MatMulIntegerToFloat" in kinds(tmp_path / "optimized.onnx")
    np.testing.assert_allclose(session.run(None, {"x": x.numpy()})[0], program(x)[0].numpy(), atol=1e-5)


@pytest.mark.parametrize("dialect", [TENSORRT, X86], ids=["tensorrt", "x86"])
def test_sizes_may_be_dynamic(dialect):
    w, bias = random(24, 16), random(24)
    x = random(2, 3, 16)
    dims = {"x": {0: Dim("batch", 1, 8), 1: Dim("length", 1, 8)}}
    program = trace_function(lambda x: F.linear(fake_quantized(x, 0.05, 0, INT8), weight(w), bias), x, dims=dims)
    run = compiled(program, dialect=dialect)
    for given in (x, random(1, 1, 16), random(8, 5, 16)):
        np.testing.assert_allclose(run(given)[0], program(given)[0].numpy(), atol=2e-5)  # float32 sums of 16 terms


def test_a_weight_keeps_its_name_and_is_stored_once(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(16, 24)

        def forward(self, x):
            return F.linear(fake_quantized(x, 0.05, 0, INT8), weight(self.layer.weight), self.layer.bias)

    for x, name in ((random(2, 16), "layer.weight_quantized"), (random(2, 3, 16), "layer.weight_quantized.transposed")):
        _, file = model_of(Net(), x, folder=tmp_path, name="tensorrt")
        held = initializers(file)
        assert {k for k, v in held.items() if v.size >= 16 * 24} == {name}
        assert held["layer.bias"].dtype == np.float32


def test_a_weight_that_others_read_too_is_stored_as_they_read_it(tmp_path):
    table = random(50, 16)

    def model(ids):
        shared = weight(table)
        return F.linear(fake_quantized(F.embedding(ids, shared), 0.03, 0, INT8), shared)

    ids = torch.tensor([[1, 2, 49]])
    program, file = model_of(model, ids, folder=tmp_path, name="tensorrt")
    assert [v.shape for v in initializers(file).values() if v.size >= 800] == [(50, 16)]
    assert [f for f in lint(file, "10.15").findings if f.severity == "E"] == []
    got = OnnxRuntimeRunner(file, 1).run({"ids": ids.numpy()})["output"]
    np.testing.assert_allclose(got, program(ids)[0].numpy(), atol=1e-5)


def test_a_quantized_bias_is_written_in_floating_point(tmp_path):
    bias, w = torch.arange(-12, 12, dtype=torch.int32), random(24, 16)

    def model(x):
        own = quantized.dequantize_per_tensor(bias, 0.125, 0, -(2**31), 2**31 - 1, torch.int32)
        return F.linear(fake_quantized(x, 0.05, 0, INT8), weight(w), own)

    _, file = model_of(model, random(2, 16), folder=tmp_path, name="tensorrt")
    floats = [v for v in initializers(file).values() if v.dtype == np.float32 and v.shape == (24,)]
    assert any((v == np.arange(-12, 12) / 8).all() for v in floats)
    assert [f for f in lint(file, "10.15").findings if f.severity == "E"] == []


def test_a_program_with_quantization_survives_its_file(tmp_path):
    w = random(24, 16)
    program = trace_function(lambda x: F.linear(fake_quantized(x, 0.05, 0, INT8), weight(w)), random(2, 3, 16))
    archive.save(program, tmp_path / "quantized.pt2")
    again = archive.load(tmp_path / "quantized.pt2")
    assert operators(again) == operators(program)
    x = random(2, 3, 16, seed=1)
    assert torch.equal(again(x)[0], program(x)[0])


# -- refusals


def test_a_refusal_names_the_line():
    class Net(nn.Module):
        def forward(self, x):
            return fake_quantized(x, 0.1, 3, INT8)

    assert "test_quantization.py:" in refusal(Net(), random(2, 4))


def test_tensorrt_takes_symmetric_int8_alone():
    x = random(2, 4)
    assert "its zero point is 3, TensorRT has 0 alone: quantize symmetrically" in refusal(lambda x: fake_quantized(x, 0.1, 3, INT8), x)
    assert "quantizes to u8, which TensorRT does not" in refusal(lambda x: fake_quantized(x, 0.1, 128, UINT8), x)
    assert "it saturates at 0 and 127" in refusal(lambda x: fake_quantized(x, 0.1, 0, (0, 127, torch.int8)), x)


def test_a_scale_along_the_wrong_axis_is_refused():
    w = random(24, 16)
    message = refusal(lambda x: F.linear(x, weight(w, 1)), random(2, 16))
    assert "its scales go along axis 1 of a weight whose output channels are axis 0" in message


def test_an_activation_has_one_scale_in_tensorrt():
    def model(x):
        scales, zeros = torch.full((4,), 0.1), torch.zeros(4, dtype=torch.int64)
        q = quantized.quantize_per_channel(x, scales, zeros, 1, *INT8)
        return quantized.dequantize_per_channel(q, scales, zeros, 1, *INT8)

    assert "an activation with a scale per channel: use one scale" in refusal(model, random(2, 4))


def test_options_name_what_there_is():
    with pytest.raises(UsageError, match="cpu is 'riscv', want x86 or arm"):
        target("onnxruntime", cpu="riscv")
    with pytest.raises(UsageError, match="activations is 's16', want u8 or s8"):
        target("onnxruntime", activations="s16")
