"""Speedup: the quantized artifact is timed beside the one in floating point, and a slower one is said or refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import edgecc
from edgecc.diagnostics import Remarks
from edgecc.errors import ContractError, UsageError
from edgecc.speedup import Speedup, judge

SLOWER = Speedup("native x86_64", 1.0, 2.5, "")


def test_a_slower_artifact_is_remarked() -> None:
    remarks = Remarks()
    judge(SLOWER, False, remarks, "x86_cpu")
    (remark,) = remarks
    assert remark.kind == "missed" and "slower: 2.5 ms, in floating point 1 ms" in remark.message


def test_a_slower_artifact_is_refused_where_speed_is_required() -> None:
    with pytest.raises(ContractError, match="made the model slower") as caught:
        judge(SLOWER, True, Remarks(), "x86_cpu")
    assert caught.value.exit_code == 1


def test_a_faster_one_is_neither() -> None:
    remarks = Remarks()
    judge(Speedup("native x86_64", 2.0, 1.0, ""), True, remarks, "x86_cpu")
    assert not list(remarks)


def test_there_is_nothing_to_compare_without_quantization(tmp_path) -> None:
    options = edgecc.CompileOptions(speedup="measure")
    with pytest.raises(UsageError, match="no quantization"):
        edgecc.compile(nn.Linear(4, 4).eval(), (torch.ones(2, 4),), target="x86_cpu", options=options, output=tmp_path / "out")
    with pytest.raises(UsageError, match="want measure or require"):
        edgecc.CompileOptions(speedup="fast")


@pytest.mark.slow
def test_both_are_timed_in_one_run(tmp_path) -> None:
    pytest.importorskip("tvm", reason="Apache TVM is not installed")
    options = edgecc.CompileOptions(quant="int8", speedup="measure")
    net = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64)).eval()
    result = edgecc.compile(net, (torch.randn(8, 64),), target="x86_cpu", options=options, output=tmp_path / "out")
    found = result.report.as_dict()["speedup"]
    assert found["float_ms"] > 0 and found["quantized_ms"] > 0
    assert found["ratio"] == pytest.approx(found["float_ms"] / found["quantized_ms"], rel=1e-3)
