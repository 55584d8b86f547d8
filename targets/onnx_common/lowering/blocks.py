"""Weights in blocks: MatMulNBits where ONNX Runtime may have it, else DequantizeLinear with a `block_size`.

int4 is two numbers in a byte, the first in the low half (ONNX, Int4; ONNX Runtime, docs/ContribOperators.md, MatMulNBits).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from edgecc.ir.quantized import quantized
from edgecc.targeting.lowering import arguments_of
from edgecc.targets.onnx_common.builder import Builder
from edgecc.targets.onnx_common.lowering import float8
from edgecc.targets.onnx_common.lowering.dialect import GROUPS, bits, is_packable
from edgecc.targets.onnx_common.lowering.float8 import is_nvfp4
from edgecc.targets.onnx_common.lowering.handler import Handlers, Value, handlers
from edgecc.targets.onnx_common.lowering.quantization import is_turnable


def product(b: Builder, node: fx.Node, x: Value, bias: Value | None) -> Value | None:
    """linear(x, blocks) as MatMulNBits, None where the weight is no blocks or the dialect has not the operator.

    x [.., K] f32, packed weight [N, K / block, block * bits / 8] u8, scales [N, K / block] -> [.., N]. Packed numbers are
    unsigned: signed ones move by 8 or 128, which is what the operator takes as zero point where none is given.
    """
    weight = arguments_of(node)["weight"]
    if not b.onnxruntime or not isinstance(weight, fx.Node) or weight.target is not GROUPS or not is_packable(weight):
        return None
    bound, width = arguments_of(weight), bits(weight)
    rows, columns = b.sizes(b.weight(bound["x"]))
    count = columns // bound["group_size"]
    offset = 0 if bound["dtype"] is torch.uint8 else 1 << (width - 1)
    packed = b.derived([b.weight(bound["x"])], f"packed{width}", lambda t: pack(t, offset, width).reshape(rows, count, -1))
    scales = b.reshape(b.tensor(b.weight(bound["scales"]), torch.float32), [rows, count])
    zero_points = _packed_zeros(b, bound, offset, width, (rows, count))
    shape = {"K": columns, "N": rows, "bits": width, "block_size": bound["group_size"]}
    return b.op("com.microsoft::MatMulNBits", x, packed, scales, zero_points, None, bias, sizes=[*b.sizes(x)[:-1], rows], **shape)


def _packed_zeros(b: Builder, bound: dict[str, Any], offset: int, width: int, sizes: tuple[int, int]) -> Value | None:
    given = bound["zero_points"]
    if given is None and offset:
        return None
    zeros = torch.zeros(sizes) if given is None else b.tensor_of(b.weight(given)).reshape(sizes)  # type: ignore[union-attr]
    return b.constant(pack(zeros.to(torch.int32), offset, width), torch.uint8, "zeros") if offset == 0 or zeros.any() else None


def pack(numbers: torch.Tensor, offset: int, width: int) -> torch.Tensor:
    """Rows of numbers plus `offset` as bytes: [n, k] -> [n, ceil(k * width / 8)] u8, rows of odd length end in a zero."""
    moved = (numbers.to(torch.int32) + offset).to(torch.uint8)
    if width == 8:
        return moved
    even = torch.nn.functional.pad(moved, (0, moved.shape[-1] % 2))
    return even[:, ::2] | (even[:, 1::2] << 4)


def turned_weight(b: Builder, node: fx.Node) -> Value | None:
    """The blocks of a linear layer's weight as [in, out], stored so; None where others read them as they are."""
    weight = arguments_of(node)["weight"]
    if not isinstance(weight, fx.Node) or weight.target is not GROUPS or not is_turnable(weight):
        return None
    if is_nvfp4(weight):
        return float8.dequantize(b, weight, turned=True)
    bound = arguments_of(weight)
    zero_points = None if bound["zero_points"] is None else b.weight(bound["zero_points"])
    return dequantize(b, weight, b.weight(bound["x"]), b.weight(bound["scales"]), zero_points, turned=True)


def dequantize(b: Builder, call: fx.Node, x: Value, scales: Value, zero_points: Value | None, *, turned: bool = False) -> Value:
    """Blocks along the rows of x [n, k], or along the columns of its transpose. ONNX DequantizeLinear."""
    rows, columns = b.sizes(x)
    size = min(arguments_of(call)["group_size"], columns)
    sizes = [rows, columns // size]
    zeros = torch.zeros(sizes) if zero_points is None else b.tensor_of(zero_points).reshape(sizes)  # type: ignore[union-attr]
    scale = b.reshape(b.tensor(scales, torch.float32), sizes)
    if turned:
        x, scale, zeros = b.transpose(x, [1, 0]), b.transpose(scale, [1, 0]), zeros.t()
    given = [x, b.constant(zeros.contiguous(), b.dtype(x), "zeros")]
    if bits(call) == 4:
        given = [b.packed_tensor(v, "INT4" if arguments_of(call)["dtype"] is torch.int8 else "UINT4") for v in given]
    options = {"axis": 0 if turned else 1, "block_size": size}
    return b.op("DequantizeLinear", given[0], scale, given[1], dtype=torch.float32, sizes=b.sizes(x), **options)


def _dequantize(b: Builder, node: fx.Node, x: Value, scales: Value, zero_points: Value | None = None, **unused: Any) -> Value:
    """Nothing yet where MatMulNBits will read the blocks."""
    if is_nvfp4(node):
        return float8.dequantize(b, node, turned=False)
    return x if b.onnxruntime and is_packable(node) else dequantize(b, node, x, scales, zero_points)


HANDLERS: Handlers = handlers(_dequantize, quantized.dequantize_per_channel_group.default)
