"""A target of the tests that runs quantized programs in PyTorch, a model for it, and data to train on, good and bad."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from edgecc import Capabilities
from edgecc.quantization.support import QuantSupport
from tests.cli.torch_host import TorchHost

X = torch.randn(256, 8, generator=torch.Generator().manual_seed(1))


@dataclass(frozen=True)
class QuantHost(TorchHost):
    """PyTorch on this machine, with q/dq operators."""

    name = "quant_host"

    def pipeline(self):
        return "normalize: | compress:"

    def capabilities(self) -> Capabilities:
        dtypes = frozenset({torch.float32, torch.int8, torch.int32, torch.int64})
        return replace(super().capabilities(), dtypes=dtypes, quantization=QuantSupport("integer", precisions=("fp16",)))


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval(), (torch.zeros(1, 8),)


def labels():
    with torch.no_grad():
        return net()[0](X).argmax(1)


def samples():
    return [(x[None],) for x in X[:64]]


def batches():
    return [(X[i : i + 32], y) for i, y in zip(range(0, 256, 32), labels().split(32), strict=True)]


def inputs():
    return {"data": [X[i : i + 32] for i in range(0, 256, 32)], "teacher": "kl", "epochs": 3, "lr": 0.02}


def accuracy(program):
    return float((program(X)[0].argmax(1) == labels()).float().mean())


def empty():
    return []


def failing():
    raise OSError("the disk went away")


def unlabelled():
    return [X]


def diverging():
    return {"data": batches(), "loss": lambda output, target: output.sum() * float("nan")}


def unreadable():
    yield {"image": X}
