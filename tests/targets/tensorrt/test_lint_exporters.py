"""Files that torch.onnx and ONNX Runtime's quantizers make: lint finds what is really wrong with them, and nothing else."""

from __future__ import annotations

import warnings

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edgecc.targets.tensorrt.lint import lint
from tests.targets.tensorrt.crafted import Model, broken

pytestmark = pytest.mark.slow


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(16, 16, 3), nn.Conv2d(16, 32, 3)
        self.pool, self.last = nn.AdaptiveAvgPool2d(1), nn.Linear(32, 16)

    def forward(self, x):
        y = self.second(self.first(x).relu()).relu()
        return self.last(self.pool(y).flatten(1))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.query, self.rms = nn.LayerNorm(64), nn.Linear(64, 64), nn.RMSNorm(64)

    def forward(self, x, mask):
        q = self.query(self.norm(x)).view(x.shape[0], x.shape[1], 4, 16).transpose(1, 2)
        y = nn.functional.scaled_dot_product_attention(q, q, q, attn_mask=mask[:, None, None, :])
        return nn.functional.gelu(self.rms(y.transpose(1, 2).reshape(x.shape)))


def exported(file, module, inputs, opset, dims):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of its own deprecated calls
        torch.onnx.export(module.eval(), inputs, file, dynamo=True, opset_version=opset, dynamic_shapes=dims, verbose=False)
    return file


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    file = tmp_path_factory.mktemp("float") / "classifier.onnx"
    torch.manual_seed(0)
    return exported(file, Classifier(), (torch.randn(2, 16, 12, 12),), 18, ({0: torch.export.Dim("batch")},))


def test_a_dynamic_classifier_passes(classifier):
    report = lint(classifier, "10.15")
    assert report.findings == () and "--minShapes=x:MIN_BATCHx16x12x12" in report.commands[0]


@pytest.mark.parametrize(
    ("opset", "wanted"),
    [(18, ["W T11", "W T13", "W T16"]), (20, ["W T11", "W T13", "W T16"]), (23, ["W T16"])],
)
def test_an_encoder_is_warned_of_what_its_opset_decomposes(tmp_path, opset, wanted):
    batch = torch.export.Dim("batch")
    inputs = torch.randn(2, 8, 64), torch.ones(2, 8, dtype=torch.bool)
    file = exported(tmp_path / "encoder.onnx", Encoder(), inputs, opset, ({0: batch}, {0: batch}))
    assert broken(file) == wanted


def test_a_float16_export_is_as_precise_as_it_says(tmp_path):
    file = exported(tmp_path / "half.onnx", Classifier().half(), (torch.randn(2, 16, 12, 12).half(),), 20, None)
    assert broken(file, "11.1") == []


def quantized(classifier, folder, **options):
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Samples(CalibrationDataReader):
        def __init__(self):
            rng = np.random.default_rng(0)
            self.left = iter([{"x": rng.standard_normal((2, 16, 12, 12)).astype(np.float32)} for _ in range(2)])

        def get_next(self):
            return next(self.left, None)

    file = folder / "quantized.onnx"
    options.setdefault("quant_format", QuantFormat.QDQ)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantize_static(str(classifier), str(file), Samples(), **options)
    return file


def found(file, rule):
    return [(f.operator, f.found) for f in lint(file, "10.15").findings if f.rule == rule]


def test_onnx_runtimes_default_is_asymmetric_with_int32_biases(classifier, tmp_path):
    file = quantized(classifier, tmp_path)
    assert {r for r in broken(file) if r.startswith("E")} == {"E Q01", "E Q05"}
    assert {said.rpartition(" ")[0] for _, said in found(file, "Q01")} == {"its zero point is"}
    assert sorted(operator for operator, _ in found(file, "Q05")) == ["Conv", "Conv", "Gemm"]
    assert all("from int32" in said for _, said in found(file, "Q05"))


def test_uint8_activations(classifier, tmp_path):
    from onnxruntime.quantization import QuantType

    file = quantized(classifier, tmp_path, activation_type=QuantType.QUInt8)
    assert {said for _, said in found(file, "Q01")} == {"it quantizes to uint8"}


def test_asymmetric_int8_activations(classifier, tmp_path):
    from onnxruntime.quantization import QuantType

    file = quantized(classifier, tmp_path, activation_type=QuantType.QInt8, extra_options={"QuantizeBias": False})
    assert {r for r in broken(file) if r.startswith("E")} == {"E Q01"}
    assert {said.rpartition(" ")[0] for _, said in found(file, "Q01")} == {"its zero point is"}


def test_symmetric_int8_without_biases_has_no_error(classifier, tmp_path):
    from onnxruntime.quantization import QuantType

    symmetric = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
    file = quantized(classifier, tmp_path, activation_type=QuantType.QInt8, per_channel=True, extra_options=symmetric)
    assert {r for r in broken(file) if r.startswith("E")} == set()


def test_the_operator_format_is_refused(classifier, tmp_path):
    from onnxruntime.quantization import QuantFormat

    file = quantized(classifier, tmp_path, quant_format=QuantFormat.QOperator)
    assert {operator for operator, _ in found(file, "T03")} == {"QLinearConv"}
    assert {operator for operator, _ in found(file, "T02")} == {"QGemm"}


def test_dynamic_quantization_is_refused(tmp_path):
    from onnxruntime.quantization import quantize_dynamic

    model = Model(x=("f32", ["batch", 32]))
    y = model.op("MatMul", "x", model.weight("w", np.linspace(-1, 1, 1024, dtype=np.float32).reshape(32, 32)))
    source, file = model.save(tmp_path, (y, "f32", ["batch", 32])), tmp_path / "dynamic.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantize_dynamic(str(source), str(file))
    assert {n.op_type for n in onnx.load(file).graph.node} >= {"DynamicQuantizeLinear", "MatMulInteger"}
    assert [r for r in broken(file) if r.startswith("E")] == ["E T03"]
    assert {operator for operator, _ in found(file, "T03")} == {"DynamicQuantizeLinear", "MatMulInteger"}
