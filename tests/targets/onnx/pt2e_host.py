"""Quantize a small residual network with torchao's PT2E, and save it: `python pt2e_host.py NAME FILE.pt2`.

It runs in a process of its own, for torchao imports parts of torch that warn.
"""

from __future__ import annotations

import sys

import torch
from torch import nn
from torchao.quantization.pt2e import HistogramObserver, PerChannelMinMaxObserver
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import QuantizationSpec
from torchao.quantization.pt2e.quantizer import arm_inductor_quantizer as arm
from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86
from torchao.quantization.pt2e.quantizer.utils import QuantizationConfig


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32)
        self.second, self.last = nn.Conv2d(32, 32, 3, padding=1), nn.Linear(32, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.first(x)))
        return self.last(torch.relu(self.second(x) + x).mean((2, 3)))


def symmetric() -> QuantizationConfig:
    """int8 with zero point 0, which is TensorRT's scheme."""
    activation = QuantizationSpec(
        torch.int8, HistogramObserver.with_args(eps=2**-12), quant_min=-128, quant_max=127, qscheme=torch.per_tensor_symmetric
    )
    weight = QuantizationSpec(
        torch.int8,
        PerChannelMinMaxObserver.with_args(eps=2**-12),
        quant_min=-127,
        quant_max=127,
        qscheme=torch.per_channel_symmetric,
        ch_axis=0,
    )
    return QuantizationConfig(activation, None, weight, None)


QUANTIZERS = {
    "x86": lambda: x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config()),
    "arm": lambda: arm.ArmInductorQuantizer().set_global(arm.get_default_arm_inductor_quantization_config()),
    "dynamic": lambda: x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config(is_dynamic=True)),
    "symmetric": lambda: x86.X86InductorQuantizer().set_global(symmetric()),
}


def main(name: str, file: str) -> None:
    torch.manual_seed(0)
    example = (torch.randn(2, 16, 16, 16),)
    prepared = prepare_pt2e(torch.export.export(Net().eval(), example).module(), QUANTIZERS[name]())
    prepared(*example)
    torch.export.save(torch.export.export(convert_pt2e(prepared), example), file)


if __name__ == "__main__":
    main(*sys.argv[1:])
