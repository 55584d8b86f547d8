"""`edgecc compile --quant`: what is written and printed, and what happens where quantization cannot be had."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.cli.conftest import HOST, MODELS

USER = """
import numpy as np


def data():
    for seed in range(8):
        yield {"x": np.random.default_rng(seed).standard_normal((2, 4)).astype(np.float32)}


def nothing():
    return []


def broken():
    yield {"x": np.full((2, 4), np.nan, np.float32)}


def good(program):
    return 1.0


scores = iter([1.0, 0.25])


def falling(program):
    return next(scores)


def failing(program):
    raise ZeroDivisionError("no images")
"""


@pytest.fixture
def quantize(edgecc, tmp_path):
    (tmp_path / "user.py").write_text(USER)
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(0).standard_normal((8, 2, 4)).astype(np.float32))
    model = ("compile", f"{MODELS}:small", "--load", HOST, "--target", "quant_host", "-o", "out")
    return lambda *flags: edgecc(*model, *flags)


def test_a_quantized_artifact_is_written_verified_and_reported(quantize, tmp_path):
    result = quantize("--quant", "int8", "--calibration", "data.npz")
    assert result.code == 0, result.err
    report = json.loads((tmp_path / "out/report.json").read_text())
    (layer,) = report["quantization"]["layers"]
    assert (layer["name"], layer["weight_bits"], layer["activation_bits"], layer["bytes"]) == ("fc", 8, 8, 12 + 3 * 4)
    assert report["quantization"]["integer_mac_share"] == 1.0 and report["quantization"]["data"] == "calibration"
    assert layer["sqnr_db"] > 30 and report["verify"]["sqnr_db"] > 17
    assert "scheme    int8, ranges from calibration" in result.out and "100.0 % of multiply-accumulates in integers" in result.out


def test_data_from_a_function_and_an_evaluation(quantize, tmp_path):
    result = quantize("--quant", "int8", "--calibration", "user.py:data", "--eval", "user.py:good", "--max-drop", "0.1", "--json")
    assert result.code == 0, result.err
    assert result.document["evaluation"] == {"original": 1.0, "compiled": 1.0, "drop": 0.0}


def test_without_data_the_report_and_a_remark_say_so(quantize, tmp_path):
    result = quantize("--quant", "int8")
    assert result.code == 0 and "ranges from seeded inputs" in result.out
    assert "no calibration data" in (tmp_path / "out/remarks.jsonl").read_text()


def test_the_recipe_quantizes_again_to_the_same_bytes(quantize, edgecc, tmp_path):
    flags = ("--quant", "w4a8", "--quant-layer", "^fc$=int8", "--quant-with", "correct-bias", "--quant-method", "min-max")
    assert quantize(*flags, "--calibration", "user.py:data").code == 0
    again = edgecc("compile", "--recipe", "out/recipe.toml", "-o", "again")
    assert again.code == 0, again.err
    first, second = (json.loads((tmp_path / d / "manifest.json").read_text())["files"]["model.pt2"] for d in ("out", "again"))
    assert first["sha256"] == second["sha256"]


def test_a_weight_only_artifact_is_held_to_what_the_program_loses(quantize, tmp_path):
    assert quantize("--quant", "int4-weight-channel").code == 0
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert 1e-3 < manifest["tolerance"] < 0.3 and manifest["min_sqnr_db"] == 0.0


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (("--quant", "int9"), 2, "unknown quantization 'int9'"),
        (("--quant", "w8a4"), 2, "it has no activations of 4 bits"),
        (("--quant", "float"), 2, "quantizes nothing"),
        (("--quant", "fp16"), 2, "target quant_host has no fp16"),
        (("--quant", "int8", "--passes", "canonicalize"), 2, "--passes replaces it"),
        (("--quant-layer", "fc=int8"), 2, "and no --quant"),
        (("--quant", "int8", "--quant-layer", "fc"), 2, "want REGEX=SCHEME"),
        (("--quant", "int8", "--quant-layer", "encoder=float"), 2, "no layer matches 'encoder'"),
        (("--quant", "int8", "--quant-with", "fuse-gelu"), 2, "no pass that goes with quantization"),
        (("--quant", "int8", "--quant-method", "kl"), 2, "unknown calibration method"),
        (("--quant", "int8", "--calibration", "user.py:nothing"), 2, "gives no sample"),
        (("--quant", "int8", "--calibration", "user.py:broken"), 2, "sample 0: x holds NaN"),
        (("--quant", "int8", "--calibration", "user.py:missing"), 2, "has no 'missing'"),
        (("--quant", "int8", "--calibration", "none.npz"), 2, "holds no .npz file"),
        (("--quant", "int8", "--max-drop", "0.1"), 2, "--eval module:function"),
        (("--quant", "int8", "--eval", "user.py:failing"), 2, "ZeroDivisionError: no images"),
        (("--quant", "int8", "--eval", "user.py:falling", "--max-drop", "0.1"), 1, "from 1 to 0.25, by 0.75: more than --max-drop 0.1"),
    ],
)
def test_what_goes_wrong_is_said_and_nothing_is_left(quantize, tmp_path, flags, code, message):
    result = quantize(*flags)
    assert result.code == code and message in result.err
    assert not (tmp_path / "out").exists()


def test_a_model_in_which_nothing_can_be_quantized_is_an_error(edgecc, tmp_path):
    result = edgecc("compile", f"{MODELS}:inverse", "--load", HOST, "--target", "quant_host", "-o", "out", "--quant", "int8")
    assert result.code == 1 and "--quant int8 quantized nothing" in result.err and not (tmp_path / "out").exists()


def test_keeping_every_layer_in_floating_point_is_an_error(quantize):
    result = quantize("--quant", "int8", "--quant-layer", "^fc$=float")
    assert result.code == 1 and "quantized nothing" in result.err and "its scheme is float" in result.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scheme", "target", "options"), [("nf4", "onnxruntime", {}), ("nvfp4", "tensorrt", {"opset": 23, "profile": "10.15"})]
)
def test_codes_of_four_bits_are_stored_as_such_and_run(tmp_path, scheme, target, options):
    import torch

    from edgecc import CompileOptions, compile
    from edgecc.registry import Registry

    torch.manual_seed(0)
    backend = Registry.create().create_target(target, options)
    net = torch.nn.Sequential(torch.nn.Linear(1024, 1024), torch.nn.ReLU(), torch.nn.Linear(1024, 1024)).eval()
    result = compile(net, (torch.randn(2, 1024),), target=backend, options=CompileOptions(quant=scheme), output=tmp_path / "o")
    assert result.report.model_bytes < 0.15 * result.report.original.bytes  # (4 + 32 / 64) / 32 bits and (4 + 8 / 16) / 32
    assert all(layer["weight_bits"] == 4 for layer in result.report.quantization["layers"])


def test_a_target_without_quantization_says_so(compile_small):
    result = compile_small("-o", "out", "--quant", "int8")
    assert result.code == 2 and "target 'torch_host' has no quantization" in result.err


def test_quantization_through_the_python_interface(tmp_path):
    from edgecc import CompileOptions, compile
    from tests.cli.models import small
    from tests.cli.torch_host import QuantHost

    model, inputs = small()
    data = (np.random.default_rng(k).standard_normal((2, 4)).astype(np.float32) for k in range(4))
    options = CompileOptions(quant="int8", max_drop=0.5)
    from pathlib import Path

    result = compile(
        model,
        inputs,
        target=QuantHost(),
        options=options,
        output=tmp_path / "o",
        load=[Path(HOST)],
        calibration=data,
        evaluate=lambda p: 1.0,
    )
    assert result.report.quantization["integer_mac_share"] == 1.0


def test_opt_quantizes_a_saved_program(edgecc, quantize, tmp_path):
    assert quantize("--dump-ir").code == 0
    text = "insert-fake-quant, calibrate{method='min-max'}, finalize-quant"
    result = edgecc("opt", "out/ir/00-trace.pt2", "--passes", text, "--calibration", "data.npz")
    assert result.code == 0 and "quantized_decomposed.quantize_per_tensor" in result.out
    low, high = (getattr(np.load("data.npz")["x"], name)() for name in ("min", "max"))
    assert f"{float(np.float32((float(high) - float(low)) / 255))!r}" in result.out
