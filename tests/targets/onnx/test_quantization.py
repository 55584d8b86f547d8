"""Single operators of quantization in ONNX Runtime against closed forms and PyTorch, and what each dialect refuses."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgecc.errors import UnsupportedError, UsageError
from edgecc.ir import archive
from edgecc.ir.quantized import quantized
from edgecc.ir.signature import Dim
from edgecc.ir.verify import verify
from edgecc.registry import Registry
from edgecc.targets.onnx_common.lowering.dialect import Dialect
from edgecc.targets.onnx_common.runtime import OnnxRuntimeRunner
from edgecc.targets.tensorrt.lint import lint
from edgecc.testing import operators, trace_function
from tests.targets.onnx import quantize_host as host
from tests.targets.onnx.onnx_host import compiled

INT8 = (-128, 127, torch.int8)
UINT8 = (0, 255, torch.uint8)
TENSORRT, X86, ARM = Dialect(symmetric=True), Dialect("u8", onnxruntime=True), Dialect(onnxruntime=True)


def fake_quantized(x, scale, zero_point, limits):
    q = quantized.quantize_per_tensor(x, scale, zero_point, *limits)
    return quantized.dequantize_per_tensor(q, scale, zero_point, *limits)


def weight(w, axis=0, limits=(-127, 127, torch.int8)):
    """A float weight on the grid of int8, one scale for each channel."""
    scales = w.abs().amax([k for k in range(w.dim()) if k != axis]) / 127
    zeros = torch.zeros(len(scales), dtype=torch.int64)
    q = quantized.quantize_per_channel(w, scales, zeros, axis, *limits)
    return quantized.dequantize_per_channel(q, scales, zeros, axis, *limits)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def target(name, **options):
    return Registry.create().create_target(name, {"exporter": False, **options})


def model_of(function, *inputs, folder, name="onnxruntime", **options):
    """The file that a target writes of a function, after its passes, and the program."""
    made = target(name, **options)
    program = host.optimized(trace_function(function, *inputs), made)
    verify(program)
    return program, host.written(program, made, folder / name)


def kinds(file):
    return [n.op_type for n in onnx.load(file).graph.node]


def initializers(file):
    return {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(file).graph.initializer}


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


# -- scales that are computed


@pytest.mark.parametrize(
    "x", [random(3, 40), random(3, 40).abs() + 1, -random(3, 40).abs(), torch.zeros(2, 4)], ids=["normal", "above 1", "below 0", "zero"]
)
@pytest.mark.parametrize("limits", [INT8, UINT8])
def test_scales_of_a_whole_tensor_are_those_of_pytorch(x, limits):
    def model(x):
        scale, zero_point = quantized.choose_qparams(x, *limits[:2], 2.0**-12, limits[2])
        q = quantized.quantize_per_tensor(x, scale, zero_point, *limits)
        return scale, zero_point, q, quantized.dequantize_per_tensor(q, scale, zero_point, *limits)

    program = trace_function(model, x)
    _close_integers(compiled(program, dialect=X86)(x), program(x))


def _close_integers(got, want):
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.numpy().dtype
        np.testing.assert_allclose(a.astype(np.float64), b.numpy().astype(np.float64), rtol=1e-6, atol=1e-6)


def dynamic_linear(w, bias, limits, eps):
    def model(x):
        scale, zero_point = quantized.choose_qparams(x, *limits[:2], eps, limits[2])
        q = quantized.quantize_per_tensor(x, scale, zero_point, *limits)
        return F.linear(quantized.dequantize_per_tensor(q, scale, zero_point, *limits), weight(w), bias)

    return model


@pytest.mark.parametrize("limits", [INT8, UINT8])
@pytest.mark.parametrize("eps", [torch.finfo(torch.float32).eps, 2.0**-12])
@pytest.mark.parametrize(("sizes", "bias"), [((5, 64), random(24)), ((2, 5, 64), random(24)), ((2, 5, 64), None)])
def test_a_layer_with_computed_scales_is_one_product_of_integers(sizes, bias, eps, limits, tmp_path):
    x, w = random(*sizes), random(24, 64, seed=1)
    program, file = model_of(dynamic_linear(w, bias, limits, eps), x, folder=tmp_path)
    assert kinds(file).count("MatMulInteger") == 1 and not {"DequantizeLinear", "MatMul"} & set(kinds(file))
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "optimized.onnx"), 3
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    own = eps < 2.0**-12
    assert ("DynamicQuantizeLinear" in kinds(file)) == own  # its steps have no least width
    assert ("DynamicQuantizeMatMul" if own else "MatMulIntegerToFloat") in kinds(tmp_path / "optimized.onnx")
    for given in (x, 100 * x, x.abs() + 1, -x.abs(), torch.zeros(sizes), 1e-3 * x):
        got, want = session.run(None, {"x": given.numpy()})[0], program(given)[0].numpy()
        # a number on the edge of two steps may go either way: one step of x times the largest weight
        step = max(float(given.max().clamp(min=0) - given.min().clamp(max=0)) / 255, eps)
        assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max() + 1.01 * step * float(w.abs().max())
        assert np.mean(np.abs(got - want) <= 1e-5 * max(np.abs(want).max(), 1e-30)) >= 0.9
    tiny = 1e-6 * x  # a range below 255 eps, where PyTorch's steps are eps: both are within half a step of what is not quantized
    float_ = F.linear(tiny, weight(w), bias).numpy()
    bound = eps / 2 * float(w.abs().sum(1).max()) + 1e-6 * np.abs(float_).max()
    for found in (session.run(None, {"x": tiny.numpy()})[0], program(tiny)[0].numpy()):
        assert np.abs(found - float_).max() <= bound


def test_int8_that_is_computed_becomes_uint8_on_x86_with_the_same_numbers(tmp_path):
    """q + 128 with zero point z + 128: the integers themselves, one by one."""
    w = random(8, 64)

    def model(x):
        scale, zero_point = quantized.choose_qparams(x, -128, 127, 2.0**-12, torch.int8)
        q = quantized.quantize_per_tensor(x, scale, zero_point, *INT8)
        return F.linear(quantized.dequantize_per_tensor(q, scale, zero_point, *INT8), weight(w))

    for name, kind, offset in (("x86", "UINT8", 128), ("arm", "INT8", 0)):
        program, file = model_of(model, random(3, 64), folder=tmp_path, cpu=name)
        proto = onnx.load(file)
        (node,) = [n for n in proto.graph.node if n.op_type == "QuantizeLinear"]
        proto.graph.output.append(onnx.helper.make_tensor_value_info(node.output[0], getattr(onnx.TensorProto, kind), None))
        onnx.save(proto, tmp_path / "exposed.onnx")
        for x in (random(3, 64), random(3, 64).abs(), 1e-3 * random(3, 64), torch.zeros(3, 64)):
            got = OnnxRuntimeRunner(tmp_path / "exposed.onnx", 1).run({"x": x.numpy()})[node.output[0]].astype(int) - offset
            values = host.Recorder(program, (x,)).values
            want = next(v for k, v in values.items() if k.startswith("quantize_per_tensor")).numpy()
            assert np.abs(got - want).max() <= 1 and (got == want).mean() >= 0.98


def test_scales_that_are_shared_or_read_are_computed_by_plain_operators(tmp_path):
    """DynamicQuantizeLinear gives float32 scales of rank 0 and quantizes its own input."""
    eps = torch.finfo(torch.float32).eps

    def shared(x):
        scale, zero_point = quantized.choose_qparams(x, 0, 255, eps, torch.uint8)
        q = quantized.quantize_per_tensor(x * 0.5, scale, zero_point, *UINT8)
        return quantized.dequantize_per_tensor(q, scale, zero_point, *UINT8)

    def read(x):
        scale, zero_point = quantized.choose_qparams(x, 0, 255, eps, torch.uint8)
        return scale, quantized.quantize_per_tensor(x, scale, zero_point, *UINT8)

    for function in (shared, read):
        x = random(3, 64)
        program, file = model_of(function, x, folder=tmp_path)
        assert "DynamicQuantizeLinear" not in kinds(file)
        found = OnnxRuntimeRunner(file, 1).run({"x": x.numpy()})
        for spec, want in zip(program.signature.outputs, program(x), strict=True):
            np.testing.assert_allclose(found[spec.name].astype(float), want.numpy().astype(float), rtol=1e-6)


def test_integers_with_computed_scales_that_others_read_stay_int8(tmp_path):
    def model(x):
        scale, zero_point = quantized.choose_qparams(x, -128, 127, 2.0**-12, torch.int8)
        return quantized.quantize_per_tensor(x, scale, zero_point, *INT8), zero_point

    x = random(3, 64)
    program, file = model_of(model, x, folder=tmp_path)
    found = OnnxRuntimeRunner(file, 1).run({"x": x.numpy()})
    for spec, want in zip(program.signature.outputs, program(x), strict=True):
        assert found[spec.name].dtype == want.numpy().dtype and (found[spec.name] == want.numpy()).all()


@pytest.mark.parametrize("x", [random(2, 5, 64), random(2, 5, 64).abs() + 1, torch.zeros(2, 3, 4)], ids=["normal", "above 1", "zero"])
def test_scales_of_each_token_are_those_of_pytorch(x):
    def model(x):
        scales, zero_points = quantized.choose_qparams_per_token_asymmetric(x, torch.int8)
        q = quantized.quantize_per_token(x, scales, zero_points, *INT8)
        return scales, zero_points, q, quantized.dequantize_per_token(q, scales, zero_points, *INT8, torch.float32)

    program = trace_function(model, x)
    _close_integers(compiled(program, dialect=X86)(x), program(x))


def test_tensorrt_wants_scales_when_it_builds():
    def tokens(x):
        scales, zero_points = quantized.choose_qparams_per_token_asymmetric(x, torch.int8)
        q = quantized.quantize_per_token(x, scales, zero_points, *INT8)
        return quantized.dequantize_per_token(q, scales, zero_points, *INT8, torch.float32)

    def tensor(x):
        scale, zero_point = quantized.choose_qparams(x, *INT8[:2], 2.0**-12, torch.int8)
        q = quantized.quantize_per_tensor(x, scale, zero_point, *INT8)
        return quantized.dequantize_per_tensor(q, scale, zero_point, *INT8)

    for model in (tokens, tensor):
        assert "its scales are computed from each input, TensorRT wants them when it builds: calibrate" in refusal(model, random(2, 8))


# -- blocks


def blocks(columns, group, limits, *, rows=32, zero_points=None):
    numbers = torch.randint(limits[0], limits[1] + 1, (rows, columns), dtype=limits[2], generator=torch.Generator().manual_seed(0))
    scales = random(rows, columns // group).abs() / 10 + 0.01
    return lambda: quantized.dequantize_per_channel_group(numbers, scales, zero_points, *limits, group, torch.float32)


INT4 = (-8, 7, torch.int8)
UINT4 = (0, 15, torch.uint8)


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize(("limits", "name"), [(INT4, "INT4"), (INT8, "INT8")])
def test_blocks_of_a_weight_are_one_dequantize_linear(limits, name, rank):
    dequantized = blocks(128, 64, limits)
    x = random(*[2, 3, 128][-rank:])
    program = trace_function(lambda x: F.linear(x, dequantized()), x)
    got = compiled(program, 21, dialect=Dialect())(x)[0]
    np.testing.assert_allclose(got, program(x)[0].numpy(), rtol=1e-4, atol=1e-4)


def test_int4_blocks_for_tensorrt_are_packed_and_break_no_rule(tmp_path):
    dequantized = blocks(128, 64, INT4)
    x = random(2, 3, 128)
    program, file = model_of(lambda x: F.linear(x, dequantized()), x, folder=tmp_path, name="tensorrt", opset=21)
    (stored,) = [t for t in onnx.load(file).graph.initializer if len(t.raw_data) == 128 * 32 // 2]
    assert (stored.data_type, list(stored.dims)) == (onnx.TensorProto.INT4, [128, 32])
    assert kinds(file) == ["DequantizeLinear", "MatMul"]
    assert [f for f in lint(file, "10.15").findings if f.severity == "E"] == []
    got = OnnxRuntimeRunner(file, 1).run({"x": x.numpy()})["output"]
    np.testing.assert_allclose(got, program(x)[0].numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize(("limits", "low"), [(INT4, -8), (UINT4, 0), (INT8, -128)])
@pytest.mark.parametrize("asymmetric", [False, True])
def test_a_linear_layer_over_blocks_is_one_node_in_onnx_runtime(limits, low, asymmetric, rank, tmp_path):
    offsets = torch.randint(low, low + 16, (32, 3), dtype=torch.int32, generator=torch.Generator().manual_seed(1))
    zero_points = offsets if asymmetric else None
    dequantized, bias = blocks(96, 32, limits, zero_points=zero_points), random(32)
    x = random(*[2, 3, 96][-rank:])
    program, file = model_of(lambda x: F.linear(x, dequantized(), bias), x, folder=tmp_path)
    assert kinds(file) == ["MatMulNBits"]
    bits = 8 if limits is INT8 else 4
    assert sum(v.nbytes for v in initializers(file).values() if v.dtype == np.uint8 and v.ndim == 3) == 32 * 96 * bits // 8
    got = OnnxRuntimeRunner(file, 1).run({"x": x.numpy()})["output"]
    want = program(x)[0].numpy()
    assert np.abs(got - want).max() <= 2e-6 * np.abs(want).max() * 96  # float32 sums of 96 terms, whose zero points cancel


def test_blocks_that_a_layer_and_something_else_read_stay_one_tensor(tmp_path):
    dequantized = blocks(64, 32, INT8)

    def model(x):
        shared = dequantized()
        return F.linear(x, shared), shared.sum(0)

    program, file = model_of(model, random(2, 64), folder=tmp_path, opset=21)
    assert "MatMulNBits" not in kinds(file) and kinds(file).count("DequantizeLinear") == 1
    found = OnnxRuntimeRunner(file, 1).run({"x": program.examples[0].numpy()})
    for spec, want in zip(program.signature.outputs, program(*program.examples), strict=True):
        np.testing.assert_allclose(found[spec.name], want.numpy(), rtol=1e-4, atol=1e-3)


# -- refusals


def refusal(function, *inputs, name="tensorrt", **options):
    made = Registry.create().create_target(name, options)  # with the exporter, which must not write what is refused
    program = host.optimized(trace_function(function, *inputs), made)
    with pytest.raises(UnsupportedError) as caught:
        host.support.check(program, made.capabilities(), made.name)
    return str(caught.value)


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


def test_blocks_need_opset_21_and_sizes_that_tensorrt_has():
    x = random(2, 128)
    four, eight, small = blocks(128, 64, INT4), blocks(128, 64, INT8), blocks(128, 32, INT4)
    assert "from opset 21, and opset is 20" in refusal(lambda x: F.linear(x, four()), x)
    assert "from opset 21, and opset is 20" in refusal(lambda x: x @ four().t().contiguous(), x, name="onnxruntime")
    assert "blocks of 64 int8" in refusal(lambda x: F.linear(x, eight()), x, opset=21)
    assert "blocks of 32 int4" in refusal(lambda x: F.linear(x, small()), x, opset=21)
    moved = blocks(128, 64, INT4, zero_points=torch.ones(32, 2, dtype=torch.int32))
    assert "its blocks are asymmetric" in refusal(lambda x: F.linear(x, moved()), x, opset=21)


def test_options_name_what_there_is():
    with pytest.raises(UsageError, match="cpu is 'riscv', want x86 or arm"):
        target("onnxruntime", cpu="riscv")
    with pytest.raises(UsageError, match="activations is 's16', want u8 or s8"):
        target("onnxruntime", activations="s16")
