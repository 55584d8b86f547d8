"""4-bit floating-point codes for weights.

NF4: 16 numbers, quantiles of the normal distribution, times one f32 scale a block of 64. Dettmers et al. 2023, section 3.
NVFP4: E2M1 numbers, times an E4M3 scale a block of 16, times one f32 scale a tensor. NVIDIA, TensorRT documentation, Working
with Quantized Types: NVFP4.

NF4 is plain ATen: two codes share a byte, which is looked up in a table of 256 pairs. NVFP4 is twice E2M1 as integers, in groups of
16, whose scales are FP8 dequantized by one number.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx

from edgecc.ir import provenance
from edgecc.ir.ops import short_name
from edgecc.ir.program import Program
from edgecc.ir.quantized import quantized
from edgecc.quantization.scheme import WeightFormat

aten = torch.ops.aten

_E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
#: The largest E2M1 and E4M3 numbers.
_E2M1_MAX, _E4M3_MAX = 6.0, 448.0


def normal_quantiles() -> torch.Tensor:
    """The 16 NF4 numbers [16] f32, from -1 to 1 with an exact zero: 8 quantiles above zero, 7 below it, each side scaled to 1."""
    offset = 0.5 * (1 / 32 + 1 / 30)
    above = torch.special.ndtri(torch.linspace(1 - offset, 0.5, 9, dtype=torch.float64)[:-1])
    below = -torch.special.ndtri(torch.linspace(1 - offset, 0.5, 8, dtype=torch.float64)[:-1])
    numbers = torch.cat([above, torch.zeros(1, dtype=torch.float64), below]).sort().values
    return (numbers / numbers.abs().max()).float()


def table(codes: str) -> torch.Tensor:
    """The numbers of the 16 codes [16] f32."""
    return normal_quantiles() if codes == "nf4" else torch.tensor([*_E2M1, *(-v for v in _E2M1)])


def pairs(codes: str) -> torch.Tensor:
    """The two numbers of a byte, the low half first [256, 2] f32."""
    numbers, byte = table(codes), torch.arange(256)
    return torch.stack([numbers[byte & 15], numbers[byte >> 4]], 1)


@dataclass(frozen=True)
class Coded:
    """Codes u8 [blocks, size], scales of blocks [blocks, 1] f32 (E4M3 numbers for nvfp4) and of the tensor [1] f32."""

    codes: torch.Tensor
    scale: torch.Tensor
    tensor_scale: torch.Tensor


def encode(weight: torch.Tensor, kind: WeightFormat) -> Coded:
    """The nearest code of every number, in blocks along the last axes. weight [out, ...] f32, whole blocks."""
    blocks = weight.reshape(-1, kind.group).double()
    peak = blocks.abs().amax(1, keepdim=True)
    numbers = table(kind.codes).double()
    if kind.codes == "nf4":
        scale, whole = peak.float(), torch.ones(1)
    else:
        whole = (blocks.abs().max() / (_E2M1_MAX * _E4M3_MAX)).float().clamp(min=1e-30).reshape(1)
        scale = (peak / _E2M1_MAX / whole).float().to(torch.float8_e4m3fn).float()
    divisor = (scale.double() * whole.double()).clamp(min=1e-30)
    found = (blocks / divisor)[..., None].sub(numbers).abs().argmin(-1)
    return Coded(found.to(torch.uint8), scale, whole)


def decode(coded: Coded, kind: WeightFormat) -> torch.Tensor:
    """[blocks, size] f32."""
    return table(kind.codes)[coded.codes.long()] * (coded.scale * coded.tensor_scale)


def insert(program: Program, weight: fx.Node, before: fx.Node, kind: WeightFormat) -> fx.Node:
    """What stands in place of a weight; returns what its readers shall read."""
    held = program.weight(weight)
    coded = encode(held, kind)

    def stored(name: str, tensor: torch.Tensor) -> fx.Node:
        return program.add_weight(f"{weight.target}_{name}", tensor, weight)

    def call(target: object, *args: object) -> fx.Node:
        with program.graph.inserting_before(before):
            new = program.graph.create_node("call_function", target, args, name=short_name(target))  # type: ignore[arg-type]
        program.infer(new)
        provenance.inherit(new, [weight, before])
        return new

    if kind.codes == "nvfp4":
        twice = (2 * table("nvfp4"))[coded.codes.long()].to(torch.int8).reshape(held.shape[0], -1)
        half = float(coded.tensor_scale) / 2
        fp8 = stored("scale", coded.scale.reshape(held.shape[0], -1).to(torch.float8_e4m3fn))
        scales = call(quantized.dequantize_per_tensor.default, fp8, half, 0, -448, 448, torch.float8_e4m3fn)
        rows = call(
            *(quantized.dequantize_per_channel_group.default, stored("codes", twice), scales, None, -12, 12, torch.int8),
            *(kind.group, torch.float32),
        )
        return rows if held.dim() == 2 else call(aten.reshape.default, rows, list(held.shape))
    data = stored("codes", coded.codes[:, ::2] | (coded.codes[:, 1::2] << 4))
    numbers = call(aten.embedding.default, stored("pairs", pairs(kind.codes)), call(aten.to.dtype, data, torch.int32))
    scale = stored("scale", coded.scale)
    blocks = call(aten.reshape.default, numbers, [-1, kind.group])
    return call(aten.reshape.default, call(aten.mul.Tensor, blocks, scale), list(held.shape))
