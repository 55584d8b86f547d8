"""Models, options and places that the ONNX targets cannot take: one message, the documented exit code, and nothing left behind."""

# ruff: noqa: F811  a test takes a fixture by the name that it was imported under
from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests import ROOT
from tests.cli.conftest import edgecc  # noqa: F401  fixture
from tests.test_bad_output import LIMITED, contents

MODELS = """
import torch
from torch import nn

class Odd(nn.Module):
    def forward(self, x):
        return torch.linalg.svd(x)[1], x.cumprod(1), x[x > 0]

class Spectrum(nn.Module):
    def forward(self, x):
        return torch.fft.rfft(x).abs()

class Complex(nn.Module):
    def forward(self, z):
        return z * z

def odd():
    return Odd(), (torch.randn(3, 4),)

def spectrum():
    return Spectrum(), (torch.randn(3, 8),)

def complex():
    return Complex(), (torch.randn(3, 4, dtype=torch.complex64),)

def rows():
    torch.manual_seed(0)
    return nn.Linear(64, 64), (torch.ones(3, 64),)

def wide():
    torch.manual_seed(0)
    return nn.Linear(600, 600), (torch.ones(3, 600),)
"""
TARGETS = pytest.mark.parametrize("target", ["onnxruntime", "tensorrt"])


@pytest.fixture
def attempt(edgecc, tmp_path):
    """Compile to `out`, and see that after a failure the folder holds what it held before."""
    (tmp_path / "models.py").write_text(MODELS)

    def attempt(model, target, *flags, code, parts):
        before = contents(tmp_path)
        result = edgecc("compile", f"models.py:{model}", "--target", target, "-o", "out", "--progress", "none", *flags)
        assert (result.code, result.out) == (code, ""), result.err
        assert "Traceback" not in result.err and [p for p in parts if p not in result.err] == [], result.err
        left = {name: held for name, held in contents(tmp_path).items() if "__pycache__" not in name}
        assert left == before and not [p.name for p in tmp_path.iterdir() if p.name.startswith(".out")]

    return attempt


@TARGETS
def test_every_operator_that_is_not_lowered_is_listed_with_its_line(attempt, target):
    parts = ("cannot lower 3 kind(s) of operator", "aten.linalg_svd", "aten.cumprod", "aten.index.Tensor", "models.py:7")
    attempt("odd", target, "--set", "target_options.exporter=false", code=4, parts=parts)


@TARGETS
@pytest.mark.parametrize("model", ["spectrum", "complex"])
def test_complex_numbers_are_refused_by_name(attempt, target, model):
    attempt(model, target, "--set", "target_options.exporter=false", code=4, parts=("c64", "models.py"))


@pytest.mark.parametrize(
    ("target", "options", "parts"),
    [
        ("tensorrt", ("profile='10.1'", "opset=21"), ("TensorRT 10.1 reads opsets up to 20, and opset is 21",)),
        ("tensorrt", ("profile='9.9'",), ("profile is '9.9', want one of 10.1, 10.15, 11.1",)),
        ("onnxruntime", ("opset=16",), ("opset is 16, want 17..24",)),
        ("onnxruntime", ("attention=true",), ("the Attention operator is of opset 23, and opset is 20",)),
        ("onnxruntime", ("precision=half",), ("precision is 'half', want one of fp32, fp16, bf16",)),
        ("onnxruntime", ("precision=bf16",), ("onnxruntime has no bf16", "precision=fp16")),
        ("onnxruntime", ("simplify=sometimes",), ("simplify",)),
        ("tensorrt", ("ort_format=true",), ("ort_format",)),
    ],
    ids=["opset of the profile", "profile", "opset", "attention", "precision", "bf16", "simplify", "ort_format"],
)
def test_an_option_out_of_range_is_one_message(attempt, target, options, parts):
    attempt("rows", target, *(w for o in options for w in ("--set", f"target_options.{o}")), code=2, parts=parts)


def test_every_dimension_without_a_bound_is_named_with_what_to_write(attempt):
    parts = ("dimension batch=1..", "no upper bound", '--input "input:f32[batch=1..8,64]"')
    attempt("rows", "tensorrt", "--input", "input:f32[batch,64]", code=2, parts=parts)


@TARGETS
def test_an_existing_output_is_refused_and_untouched(attempt, target, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.onnx").write_text("mine")
    attempt("rows", target, code=6, parts=("out exists", "--overwrite"))
    attempt("rows", target, "--overwrite", code=6, parts=("is not a run directory of edgecc",))


@TARGETS
def test_a_place_that_cannot_be_written_is_one_message(edgecc, tmp_path, target):
    (tmp_path / "models.py").write_text(MODELS)
    result = edgecc("compile", "models.py:rows", "--target", target, "-o", "/proc/edgecc-out", "--progress", "none")
    assert result.code == 2 and "cannot write /proc/edgecc-out: " in result.err


@pytest.mark.slow
@TARGETS
@pytest.mark.parametrize("limit", [2_000, 20_000, 500_000])
def test_a_full_disk_leaves_no_part_of_a_file(tmp_path, target, limit):
    (tmp_path / "models.py").write_text(MODELS)
    words = ["compile", "models.py:wide", "--target", target, "-o", "out", "--progress", "none"]
    run = subprocess.run(
        [sys.executable, "-c", LIMITED.format(limit), *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
    )
    assert run.returncode == 2 and "cannot write " in run.stderr and "Traceback" not in run.stderr, run.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["models.py"]
