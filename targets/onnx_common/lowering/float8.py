"""Floats of 8 and 4 bits, in the plain spelling that PyTorch runs by itself.

FP8, one scale s for a tensor: `quantized_decomposed.dequantize_per_tensor(q, s, 0, -448, 448, torch.float8_e4m3fn)` of a constant, or
of an activation `clamp(x / s, -448, 448).to(torch.float8_e4m3fn)`. (The library's own quantize_per_tensor rounds to an integer first.)

NVFP4, blocks of 16 along the rows of W [n, k], whose scales are FP8 times one float32 (TensorRT documentation, Quantization Schemes):
`dequantize_per_channel_group(i, S, None, -12, 12, torch.int8, 16, torch.float32)` where i is twice the E2M1 number, an integer, and
S [n, k / 16] = `dequantize_per_tensor(s8, s, ...)` as above. The file has FLOAT4E2M1 and two DequantizeLinear in a row.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from edgecc.ir.program import Program
from edgecc.ir.quantized import FLOAT8, quantized
from edgecc.targeting.lowering import arguments_of, fake
from edgecc.targets.onnx_common.builder import Builder
from edgecc.targets.onnx_common.lowering.handler import Value, first

aten = torch.ops.aten
MOST = 448.0  # the largest number of E4M3FN
BLOCK = 16
TWICE = (-12, 12)  # twice the range of E2M1
_GRID = (0, 1, 2, 3, 4, 6, 8, 12)
_SPELLING = "spell it torch.clamp(x / scale, -448, 448).to(torch.float8_e4m3fn)"


def quantize(b: Builder, x: Value) -> Value:
    """QuantizeLinear of clamp(y / s, -448, 448), which x is; the Clip and the Div fall away. It saturates at 448 itself."""
    y, scale = x.producer().inputs[0].producer().inputs
    return b.op("QuantizeLinear", y, scale, b.constant(0, FLOAT8, "zero"), dtype=FLOAT8, sizes=b.sizes(x))


def refuse_cast(node: fx.Node, opset: int) -> str | None:
    """Why a conversion that makes FP8, or reads it, is none of the two; None for every other conversion."""
    x = node.args[0]
    if fake(x).dtype is FLOAT8:
        return "FP8 is read without its scale: dequantize it by quantized_decomposed.dequantize_per_tensor"
    if first(node).dtype is not FLOAT8:
        return None
    divided = x.args[0] if isinstance(x, fx.Node) and x.target is aten.clamp.default and tuple(x.args[1:]) == (-MOST, MOST) else None
    if not isinstance(divided, fx.Node) or divided.target is not aten.div.Tensor or not isinstance(divided.args[1], float):
        return f"FP8 without a scale, or that does not saturate: {_SPELLING}"
    return None if opset >= 19 else f"FP8 is of opset 19, and opset is {opset}"


def refuse_other(node: fx.Node) -> str | None:
    """Why the library's own FP8 quantization is not lowered."""
    if node.target in (quantized.quantize_per_tensor.default, quantized.quantize_per_tensor.tensor) and first(node).dtype is FLOAT8:
        return f"PyTorch rounds it to an integer before FP8: {_SPELLING}"
    return None


def is_nvfp4(node: fx.Node) -> bool:
    """Whether blocks of a constant are those of the module's docstring."""
    bound = arguments_of(node)
    scales, limits = bound["scales"], (bound["quant_min"], bound["quant_max"])
    own = limits == TWICE and bound["group_size"] == BLOCK and bound["dtype"] is torch.int8 and bound["zero_points"] is None
    return own and isinstance(scales, fx.Node) and scales.target is quantized.dequantize_per_tensor.default and _is_float8(scales)


def _is_float8(node: fx.Node) -> bool:
    x = node.args[0]
    return isinstance(x, fx.Node) and x.op == "get_attr" and x.meta["val"].dtype is FLOAT8


def small_floats(program: Program) -> str:
    """fp4 or fp8 where the program has them, else `""`."""
    if any(is_nvfp4(n) for n in program.calls(quantized.dequantize_per_channel_group.default)):
        return "fp4"
    return "fp8" if FLOAT8 in program.dtypes() else ""


def refuse_numbers(numbers: torch.Tensor) -> str | None:
    """Why integers are not twice those of E2M1."""
    odd = set(numbers.abs().flatten().tolist()) - set(_GRID)
    return f"{sorted(odd)} are not twice a number of E2M1, want {_GRID}" if odd else None


def dequantize(b: Builder, node: fx.Node, *, turned: bool) -> Value:
    """The two DequantizeLinear of NVFP4; `turned`: of the transpose [k, n]. The scalar is twice s, the numbers half of i."""
    bound = arguments_of(node)
    own = arguments_of(bound["scales"])
    numbers, scales = b.weight(bound["x"]), b.weight(own["x"])
    rows, columns = b.sizes(numbers)
    scales = b.reshape(scales, [rows, columns // BLOCK])
    if turned:
        numbers, scales = b.transpose(numbers, [1, 0]), b.transpose(scales, [1, 0])
    scalar, zero = b.constant(2 * own["scale"], torch.float32, "scale"), b.constant(0, FLOAT8, "zero")
    scale = b.op("DequantizeLinear", scales, scalar, zero, dtype=torch.float32, sizes=b.sizes(scales))
    packed = b.packed_tensor(numbers, "FLOAT4E2M1", 0.5)
    zeros = b.packed_tensor(b.constant(torch.zeros([int(s) for s in b.sizes(scales)]), torch.int8, "zeros"), "FLOAT4E2M1")
    options: dict[str, Any] = {"axis": 0 if turned else 1, "block_size": BLOCK}
    return b.op("DequantizeLinear", packed, scale, zeros, dtype=torch.float32, sizes=b.sizes(numbers), **options)
