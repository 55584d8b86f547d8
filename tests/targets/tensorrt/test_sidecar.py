"""What the target tensorrt writes beside model.onnx, what it refuses, and what it says of a file that TensorRT has not seen."""

from __future__ import annotations

import ast
import json
import subprocess
import textwrap

import pytest

from edgecc.__main__ import main

MODELS = """
import torch
from torch import nn
from torch.nn import functional as F

class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.mix = nn.Embedding(50, 8), nn.Linear(8, 4)

    def forward(self, ids, scale):
        return self.mix(self.table(ids)) * scale

class Dilated(nn.Module):
    def forward(self, x):
        return F.max_pool2d(x, 2, dilation=2)

def words():
    torch.manual_seed(0)
    return Words(), (torch.randint(0, 50, (2, 6)), torch.ones(2, 6, 1))

def rows():
    torch.manual_seed(0)
    return nn.Linear(4, 4), (torch.ones(3, 4),)

def dilated():
    return Dilated(), (torch.ones(1, 2, 8, 8),)
"""
DYNAMIC = ("--input", "ids:i64[batch=1..8,seq=2..64]", "--input", "scale:f32[batch,seq,1]")


@pytest.fixture
def compiled(tmp_path, monkeypatch):
    (tmp_path / "models.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)

    def compiled(model, *flags):
        return main(["compile", f"models.py:{model}", "--target", "tensorrt", "-o", "out", "--progress", "none", *flags])

    return compiled


def test_the_script_builds_for_the_shapes_of_the_signature(compiled, tmp_path):
    assert compiled("words", *DYNAMIC) == 0
    script = tmp_path / "out" / "build_engine.sh"
    subprocess.run(["bash", "-n", script], check=True)
    words = script.read_text().replace("\\\n", " ").replace("'", "").split()
    assert {"--onnx=model.onnx", "--saveEngine=model.engine", "--timingCacheFile=model.timing", "--stronglyTyped"} <= set(words)
    assert "--minShapes=ids:1x2,scale:1x2x1" in words and "--maxShapes=ids:8x64,scale:8x64x1" in words
    best = next(w for w in words if w.startswith("--optShapes="))
    assert best.startswith("--optShapes=ids:") and 2 <= int(best.partition("x")[2].partition(",")[0]) <= 64
    assert script.stat().st_mode & 0o111
    assert "--strongly-typed" in words and words[words.index("--trt-max-shapes") + 1] == "ids:[8,64]"
    low, high = json.loads(words[words.index("--val-range") + 1].removeprefix("ids:"))
    assert 0 <= low <= high < 50


def test_the_script_runs_the_tools_in_its_own_folder(compiled, tmp_path):
    assert compiled("rows") == 0
    (tmp_path / "bin").mkdir()
    for tool in ("trtexec", "polygraphy"):
        (tmp_path / "bin" / tool).write_text(f'#!/bin/sh\necho {tool} "$@"; ls model.onnx\n')
        (tmp_path / "bin" / tool).chmod(0o755)
    run = subprocess.run(
        [tmp_path / "out" / "build_engine.sh"], env={"PATH": f"{tmp_path}/bin:/usr/bin:/bin"}, capture_output=True, text=True
    )
    assert run.stdout.split("\n")[::2][:2] == [
        "trtexec --onnx=model.onnx --saveEngine=model.engine --timingCacheFile=model.timing --stronglyTyped",
        "polygraphy run model.onnx --trt --onnxrt --strongly-typed",
    ]


@pytest.mark.parametrize(("profile", "flagged"), [("10.1", True), ("10.15", True), ("11.1", False)])
def test_strong_typing_is_asked_for_where_the_release_has_a_flag(compiled, profile, flagged, tmp_path):
    assert compiled("rows", "--set", f"target_options.profile='{profile}'") == 0
    readme, script = ((tmp_path / "out" / name).read_text() for name in ("README.txt", "build_engine.sh"))
    assert ("STRONGLY_TYPED" in readme) == ("--stronglyTyped" in script) == ("--strongly-typed" in script) == flagged
    assert "TensorRT itself was not run" in readme
    snippet = textwrap.dedent(readme[readme.index("    from pathlib") :])
    assert "set_timing_cache" in snippet and "torch" not in snippet
    ast.parse(snippet)


def test_the_snippet_gives_the_shapes_of_every_dynamic_input(compiled, tmp_path):
    assert compiled("words", *DYNAMIC) == 0
    readme = (tmp_path / "out" / "README.txt").read_text()
    assert "shapes.set_shape('ids', (1, 2), " in readme and "shapes.set_shape('scale', (1, 2, 1), " in readme
    assert ", (8, 64))" in readme and ", (8, 64, 1))" in readme


def test_a_dimension_without_a_bound_is_refused_with_the_flag_to_write(compiled, tmp_path, capsys):
    assert compiled("rows", "--input", "input:f32[batch=1..,4]") == 2
    message = capsys.readouterr().err
    assert "batch=1.. of the inputs" in message and "no upper bound" in message and '--input "input:f32[batch=1..8,4]"' in message
    assert not (tmp_path / "out").exists()


def test_the_verdict_counts_the_rules_and_says_that_tensorrt_was_not_run(compiled, tmp_path, capsys):
    assert compiled("rows") == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["facts"]["lint"].endswith("rules of profile trt-10.15") and report["facts"]["lint"].startswith("passes ")
    rules, ran, not_run = report["verdict"].split("; ")
    assert (rules, not_run) == (report["facts"]["lint"], "TensorRT itself was not run")
    assert ran.startswith("runs in ONNX Runtime with cosine 1.0000") and "ready" not in report["verdict"]
    assert report["verdict"] in capsys.readouterr().out


def test_an_artifact_that_was_not_verified_says_so(compiled, tmp_path):
    assert compiled("rows", "--verify", "off") == 0
    assert "ONNX Runtime was not run; TensorRT" in json.loads((tmp_path / "out" / "report.json").read_text())["verdict"]


def test_what_tensorrt_would_refuse_fails_the_compile_with_rule_node_and_advice(compiled, tmp_path, capsys):
    assert compiled("dilated") == 1
    message = capsys.readouterr().err
    assert "T04" in message and "MaxPool" in message and "do: " in message and "dilations" in message
    assert not (tmp_path / "out").exists()


def test_a_warning_of_the_rules_is_a_remark(compiled, tmp_path):
    assert compiled("rows", "--set", "target_options.profile='11.1'") == 0
    remarks = [json.loads(line) for line in (tmp_path / "out" / "remarks.jsonl").read_text().splitlines()]
    assert [(r["kind"], r["message"][:4]) for r in remarks if r["origin"] == "tensorrt-lint"] == [("missed", "T05:")]


def test_the_sidecar_depends_on_nothing_but_the_model(compiled, tmp_path):
    assert compiled("words", *DYNAMIC) == 0
    first = {name: (tmp_path / "out" / name).read_bytes() for name in ("build_engine.sh", "README.txt")}
    assert compiled("words", *DYNAMIC, "--overwrite") == 0
    assert first == {name: (tmp_path / "out" / name).read_bytes() for name in first}
