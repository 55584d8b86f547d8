"""Whole models on integers: every build gives the bits of PyTorch; with islands of floating point, the same but for roundings."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import edgecc
from edgecc.ir.signature import Dim
from edgecc.quantization import reference
from edgecc.targets.arm_cpu.target import ArmCpu
from edgecc.targets.x86_cpu.target import X86Cpu
from tests import ROOT
from tests.models import build
from tests.targets import integer_host as host

DATA = ROOT.parent / "shared" / "data"
pytestmark = pytest.mark.slow
WHOLE = ["mobilenet_v2", "ds_cnn"]
BUILDS = (host.X86[-1], *host.ARM)


def compiled(model, inputs, cpu, folder, quant="int8", dims=None, calibration=None):
    target = (ArmCpu if cpu in host.ARM else X86Cpu)(cpu=cpu)
    options = edgecc.CompileOptions(quant=quant, cases=2)
    return edgecc.compile(
        model, inputs, target=target, options=options, dims=dims, calibration=calibration, output=folder / cpu
    ), target  # fmt: skip


@pytest.mark.parametrize("name", [*WHOLE, "convolutions"])
def test_every_cpu_gives_the_bits_of_pytorch(name, tmp_path):
    model, inputs = build(name)[:2] if name in WHOLE else (Convolutions().eval(), (torch.randn(1, 3, 8, 8),))
    cases = [tuple(torch.randn_like(x) for x in inputs) for _ in range(5)]
    digests = {}
    for cpu in BUILDS:
        result, target = compiled(model, inputs, cpu, tmp_path, calibration=cases)
        assert result.report.as_dict()["verify"]["quantized"]["exact"], [n.name for n in reference.islands(result.program)]
        program, directory = result.program, tmp_path / cpu
        runner = target.runners(directory, json.loads((directory / "manifest.json").read_text()))[0]
        names = [s.name for s in program.signature.inputs]
        found = runner.run_many([dict(zip(names, [x.numpy() for x in case], strict=True)) for case in cases])
        digests[cpu] = reference.digest([torch.from_numpy(o[s.name]) for o in found for s in program.signature.outputs])
        digests[f"PyTorch for {cpu}"] = reference.digest([t for case in cases for t in reference.run(program, case).outputs])
    assert len(set(digests.values())) == 1, digests


def test_trained_resnet20_keeps_its_classes_and_its_size(tmp_path, monkeypatch):
    if not DATA.is_dir():
        pytest.skip("the folder ../shared/data with CIFAR-10 is not here")
    monkeypatch.syspath_prepend(str(DATA))
    import resnet_cifar

    net, _ = resnet_cifar.resnet20()
    net.load_state_dict(torch.load(DATA / "resnet20_cifar.pt", weights_only=True))
    train, _ = resnet_cifar.images(DATA / "cifar10_train_10000.npz")
    images, labels = resnet_cifar.images(DATA / "cifar10_test_2000.npz")
    result, _ = compiled(net.eval(), (images[:1],), host.X86[-1], tmp_path, calibration=[(train[i : i + 1],) for i in range(64)])
    assert result.report.as_dict()["verify"]["quantized"]["exact"]
    with torch.no_grad():
        right = [float((net(images[:200]).argmax(1) == labels[:200]).float().mean())]
    right.append(sum(float(result.program(x[None])[0].argmax() == y) for x, y in zip(images[:200], labels[:200], strict=True)) / 200)
    assert right[1] >= right[0] - 0.02, right  # of 200 images one is half a point
    weights = sum(p.numel() * 4 for p in net.parameters())
    assert sum(t.nbytes for t in result.program.weights().values()) < weights / 3.7


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.depthwise = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.up, self.last = nn.ConvTranspose2d(16, 8, 2, 2), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        return self.last(torch.relu(self.up(x + torch.relu(self.depthwise(x)))).mean((2, 3)))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.layer = nn.Embedding(50, 48), nn.TransformerEncoderLayer(48, 4, 96, batch_first=True, dropout=0.0)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.layer(self.table(tokens))


@pytest.mark.parametrize("quant", ["int8", "int8-dynamic", "int4-weight"])
@pytest.mark.parametrize("cpu", [host.X86[-1], "cortex-a72"])
def test_sizes_that_the_run_knows(cpu, quant, tmp_path):
    batch = {0: Dim("batch", 1, 4)}
    result, _ = compiled(Convolutions().eval(), (torch.randn(2, 3, 8, 8),), cpu, tmp_path / "conv", quant, {"x": batch})
    found = result.report.as_dict()["verify"].get("quantized")
    assert (found or {}).get("exact", False) == (quant == "int8")
    sizes = {"tokens": {**batch, 1: Dim("sequence", 2, 16)}}
    result, _ = compiled(Encoder().eval(), (torch.randint(0, 50, (2, 7)),), cpu, tmp_path / "encoder", quant, sizes)
    verify = result.report.as_dict()["verify"]
    assert verify["cosine"] > 0.999 and result.report.facts["runtime"] == "c"
    if quant != "int4-weight":
        assert verify["quantized"]["cosine"] > 0.9999
