"""The `quantized_decomposed` operators, which PT2E programs are made of: known to torch once this file is imported.

torch has no public way to them (tried with torch 2.13): the library is defined where torch's own quantization imports it.
A program that calls them can be traced once they are known, and a `.pt2` that does can be read.
"""

from __future__ import annotations

import torch
import torch.ao.quantization.fx._decomposed  # defines the library `quantized_decomposed`
from torch import fx

quantized = torch.ops.quantized_decomposed

QUANTIZE = frozenset(
    {quantized.quantize_per_tensor.default, quantized.quantize_per_tensor.tensor, quantized.quantize_per_channel.default}
    | {quantized.quantize_per_channel_group.default, quantized.quantize_per_token.default}
)
DEQUANTIZE = frozenset(
    {quantized.dequantize_per_tensor.default, quantized.dequantize_per_tensor.tensor, quantized.dequantize_per_channel.default}
    | {quantized.dequantize_per_channel_group.default, quantized.dequantize_per_token.default}
)
#: Scales and zero points that are computed from the numbers they are for.
CHOOSE = frozenset(
    {quantized.choose_qparams.tensor, quantized.choose_qparams_per_token_asymmetric.default}
    | {quantized._choose_qparams_per_token_asymmetric_impl.default}
)


#: The FP8 that has a program's spelling: targets/onnx_common/lowering/float8.py.
FLOAT8 = torch.float8_e4m3fn


def is_float8(node: object) -> bool:
    """Whether a call rounds an activation to FP8."""
    return isinstance(node, fx.Node) and isinstance(node.meta.get("val"), torch.Tensor) and node.meta["val"].dtype is FLOAT8


def is_quantize(node: object) -> bool:
    return isinstance(node, fx.Node) and node.target in QUANTIZE


def is_dequantize(node: object) -> bool:
    return isinstance(node, fx.Node) and node.target in DEQUANTIZE
