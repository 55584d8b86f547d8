"""The Python API: a module or a program in, a verified artifact and a runner out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import edgecc
from edgecc.errors import RefusedError, UsageError
from tests.cli import qat_host
from tests.cli.torch_host import TorchHost

HOST = TorchHost()
PIPELINE = edgecc.CompileOptions(pipeline="normalize: decompose, canonicalize | fuse: fold-batch-norm, fuse-gelu")


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.GELU())


def test_a_module_compiles_and_its_runner_gives_what_pytorch_gives(tmp_path):
    model, x = net().eval(), torch.randn(2, 3, 9)
    result = edgecc.compile(model, x, target=HOST, options=PIPELINE, output=tmp_path / "out")
    assert result.artifact == tmp_path / "out"
    assert [s.pass_.name for s in result.report.steps if s.rewrites] == ["fold-batch-norm"]
    with torch.no_grad():
        want = model(x)
    assert result.report.checks[0].distance.relative <= 1e-6  # folding rounds each weight once
    got = result.program(x)[0]
    torch.testing.assert_close(got, want, atol=1e-6, rtol=0)


def test_compiling_leaves_the_model_and_the_program_as_they_were(tmp_path):
    model, x = net().train(), torch.randn(2, 3, 9)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    program = edgecc.trace(model, x)
    edgecc.compile(program, target=HOST, options=PIPELINE, output=tmp_path / "a")
    edgecc.compile(model, x, target=HOST, options=PIPELINE, output=tmp_path / "b")
    assert model.training and all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert "1.weight" in program.weights()


def test_inputs_may_be_a_tensor_a_tuple_or_a_dict():
    x = torch.ones(2, 3, 9)
    texts = {str(edgecc.trace(net(), given).signature) for given in (x, (x,), [x], {"input": x})}
    assert len(texts) == 1
    with pytest.raises(UsageError, match="want a tensor, a tuple or a dict"):
        edgecc.trace(net(), 3)  # type: ignore[arg-type]


def test_an_existing_output_is_refused(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(RefusedError):
        edgecc.compile(net(), torch.randn(2, 3, 9), target=HOST, output=tmp_path / "out")


def test_a_new_folder_is_made_where_none_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    result = edgecc.compile(net(), torch.randn(2, 3, 9), target=HOST, options=PIPELINE)
    assert result.artifact.is_relative_to(tmp_path) and (result.artifact / "manifest.json").is_file()


def test_runners_of_an_artifact_run_it_by_name(tmp_path):
    torch.manual_seed(0)
    model = nn.Linear(4, 3).eval()
    edgecc.compile(model, torch.ones(1, 4), target="x86_cpu", output=tmp_path / "out")
    x = np.random.default_rng(0).standard_normal((1, 4), np.float32)
    got = edgecc.runners(tmp_path / "out")[0].run({"input": x})["output"]
    with torch.no_grad():
        np.testing.assert_allclose(got, model(torch.from_numpy(x)).numpy(), atol=1e-6)  # four terms of float32


def test_a_quantized_module_is_trained_on_batches(tmp_path):
    net, _ = qat_host.net()
    options = edgecc.CompileOptions(quant="w2a8")
    common = {"target": qat_host.QuantHost(), "calibration": qat_host.samples(), "evaluate": qat_host.accuracy}
    plain = edgecc.compile(net, torch.zeros(1, 8), options=options, output=tmp_path / "plain", **common)
    given = {"data": qat_host.batches(), "epochs": 5, "lr": 0.02}
    trained = edgecc.compile(net, torch.zeros(1, 8), options=options, output=tmp_path / "trained", qat=given, **common)
    assert trained.report.evaluation["compiled"] > plain.report.evaluation["compiled"]
    assert trained.report.training["history"][-1]["evaluation"] == trained.report.evaluation["compiled"]
    with pytest.raises(UsageError, match="--qat trains what --quant rounds"):
        edgecc.compile(net, torch.zeros(1, 8), target=qat_host.QuantHost(), qat=given)
