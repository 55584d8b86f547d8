"""Dialect: how a runtime wants quantized numbers written, and which of PyTorch's schemes it cannot have.

One program of `quantized_decomposed` calls becomes explicit Q/DQ in either dialect. TensorRT's is symmetric int8 with scales
that are known when it builds (TensorRT documentation, Working with Quantized Types: Quantization Schemes). ONNX Runtime's
kernels on x86 with VNNI multiply uint8 activations by int8 weights, those on ARM int8 by int8 (ONNX Runtime documentation,
Quantize ONNX Models: Data type selection).
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from edgecc.ir.dtypes import dtype_name
from edgecc.ir.program import Program
from edgecc.ir.quantized import CHOOSE, DEQUANTIZE, FLOAT8, QUANTIZE, is_dequantize, quantized
from edgecc.targeting.lowering import arguments_of, fake
from edgecc.targets.onnx_common.lowering import float8

aten = torch.ops.aten
#: The numbers that QuantizeLinear saturates at. ONNX, QuantizeLinear
FULL = {torch.int8: (-128, 127), torch.uint8: (0, 255)}
PER_TENSOR = (quantized.quantize_per_tensor.default, quantized.dequantize_per_tensor.default)
PER_CHANNEL = (quantized.quantize_per_channel.default, quantized.dequantize_per_channel.default)
GROUPS = quantized.dequantize_per_channel_group.default
PER_TOKEN = (quantized.quantize_per_token.default, quantized.dequantize_per_token.default)
#: Blocks of int4 that TensorRT has along the summed axis (TensorRT documentation, Quantization Schemes).
_BLOCKS = (64, 128)
_SYMMETRIC = "quantize symmetrically, to int8 with zero point 0"


@dataclass(frozen=True)
class Dialect:
    """`activations`: "u8" writes those of int8 with zero point z as uint8 with z + 128, "s8" leaves them. `symmetric`: int8
    with zero point 0 and constant scales is all there is. `onnxruntime`: ONNX Runtime alone reads the file, so that its own
    MatMulNBits may read blocks of a weight.
    """

    activations: str = "s8"
    symmetric: bool = False
    onnxruntime: bool = False

    def rewrite(self, program: Program) -> Program:
        """The program with its activations as this dialect has them; the same numbers, and the program itself stays."""
        if self.activations == "s8":
            return program
        changed = program.snapshot()
        for node in changed.calls(quantized.quantize_per_tensor.default):
            _to_unsigned(node)
        for node in changed.calls(quantized.choose_qparams.tensor):
            _choose_unsigned(node)
        return changed

    def refuse(self, node: fx.Node, opset: int) -> str | None:
        """Why a call of quantization cannot be written in this dialect and what to do, None for every other call."""
        own = float8.refuse_other(node)
        if own or (self.onnxruntime and _is_small_float(node)):
            return own or "FP8 and FP4, which ONNX Runtime's optimizer makes an invalid graph of or has no kernel for: target tensorrt"
        if node.target in CHOOSE or node.target in PER_TOKEN:
            return "its scales are computed from each input, TensorRT wants them when it builds: calibrate" if self.symmetric else None
        if node.target is GROUPS:
            return _refuse_groups(node, opset, self)
        if node.target not in QUANTIZE | DEQUANTIZE:
            return None
        return _refuse_types(node, opset) or (_refuse_asymmetric(node) if self.symmetric else None)


#: As the program has them.
PLAIN = Dialect()


def _to_unsigned(node: fx.Node) -> None:
    """Move an activation from int8 to uint8, q + 128 with zero point z + 128, where only its own dequantization reads it."""
    *_, dtype = node.args
    same = [user.target is quantized.dequantize_per_tensor.default and user.args[1:] == node.args[1:] for user in node.users]
    if dtype is not torch.int8 or is_constant(node.args[0]) or not all(same):
        return
    for call in (node, *node.users):
        x, scale, zero_point, low, high, _ = call.args
        call.args = (x, scale, zero_point + 128, low + 128, high + 128, torch.uint8)  # type: ignore[operator]
    node.meta["val"] = node.meta["val"].to(torch.uint8)


def _choose_unsigned(node: fx.Node) -> None:
    """The same of a range that is computed: round(min / s) is subtracted from 0 instead of -128, so z moves by 128 exactly."""
    x, low, high, eps, dtype = node.args
    chosen = [user for getitem in node.users for user in getitem.users]
    calls = list(dict.fromkeys(chosen))
    wanted = (quantized.quantize_per_tensor.tensor, quantized.dequantize_per_tensor.tensor)
    parts = [part for part in node.users if part.target is operator.getitem]
    if (low, high, dtype) != (-128, 127, torch.int8) or len(parts) != len(node.users):
        return
    if any(c.target not in wanted or c.args[3:6] != (low, high, dtype) or not set(c.args[1:3]) <= set(parts) for c in calls):
        return
    quantizers = [c for c in calls if c.target is wanted[0]]
    if any(user not in calls for q in quantizers for user in q.users):
        return
    node.args = (x, 0, 255, eps, torch.uint8)
    for call in calls:
        call.args = (*call.args[:3], 0, 255, torch.uint8)
    for q in quantizers:
        q.meta["val"] = q.meta["val"].to(torch.uint8)


def _is_small_float(node: fx.Node) -> bool:
    if node.op != "call_function":
        return False
    values = [fake(a) for a in (*node.all_input_nodes, node)]
    return any(isinstance(v, torch.Tensor) and v.dtype is FLOAT8 for v in values) or (node.target is GROUPS and float8.is_nvfp4(node))


def is_constant(value: object) -> bool:
    return isinstance(value, fx.Node) and value.op == "get_attr"


def constant(value: Any) -> Any:
    """The tensor of a weight node, a number as it is, None for what is computed."""
    if not isinstance(value, fx.Node):
        return value
    module = value.graph.owning_module
    if value.op != "get_attr" or module is None:
        return None
    parent, _, leaf = str(value.target).rpartition(".")
    return getattr(module.get_submodule(parent), leaf).detach()


def parameters(node: fx.Node) -> tuple[Any, Any]:
    """Scale and zero point of a call, of one number or of several."""
    bound = arguments_of(node)
    return tuple(bound.get(name, bound.get(f"{name}s")) for name in ("scale", "zero_point"))  # type: ignore[return-value]


def is_packable(node: fx.Node) -> bool:
    """Whether MatMulNBits can read the blocks: int4 or int8 of a constant that only linear layers read as their weight.

    Blocks of a power of two of at least 16 numbers. ONNX Runtime, docs/ContribOperators.md, com.microsoft.MatMulNBits.
    """
    bound = arguments_of(node)
    size = bound["group_size"]
    weights = [user.target is aten.linear.default and user.args[1] is node and user.args[0] is not node for user in node.users]
    return size >= 16 and size & (size - 1) == 0 and size <= fake(bound["x"]).shape[-1] and bool(weights) and all(weights)


def bits(node: fx.Node) -> int:
    """4 for a call whose numbers fit int4 or uint4, else 8."""
    bound = arguments_of(node)
    return 4 if (bound["quant_min"], bound["quant_max"]) in ((-8, 7), (-7, 7), (0, 15)) else 8


def is_narrow(bound: dict[str, Any]) -> bool:
    """Whether a call saturates before QuantizeLinear does; by one step at the low end, as -127..127 does, is not counted."""
    low, high = FULL[bound["dtype"]]
    return bool(bound["quant_min"] > low + 1 or bound["quant_max"] < high)


def _refuse_types(node: fx.Node, opset: int) -> str | None:
    bound = arguments_of(node)
    dtype = bound["dtype"]
    x = fake(bound["x"])
    if dtype is FLOAT8:
        return None if opset >= 19 else f"FP8 is of opset 19, and opset is {opset}"
    if bound.get("out_dtype") not in (None, torch.float32):
        return f"it dequantizes to {dtype_name(bound['out_dtype'])}, want float32"
    if is_constant(bound["x"]) and (x.dim() <= 1 or not is_dequantize(node)):
        return None  # computed when lowering
    if dtype not in FULL:
        return f"it quantizes to {dtype_name(dtype)}, want int8 or uint8"
    axis = bound.get("axis")
    if axis is not None and not all(is_constant(p) for p in parameters(node) if p is not None):
        return "its scales per channel are computed: calibrate"
    return None


def _refuse_asymmetric(node: fx.Node) -> str | None:
    bound = arguments_of(node)
    scale, zero_point = parameters(node)
    if is_constant(bound["x"]) and is_dequantize(node) and fake(bound["x"]).dim() <= 1:
        return None  # a bias, which is written in floating point
    if bound["dtype"] not in (torch.int8, FLOAT8):
        return f"it quantizes to {dtype_name(bound['dtype'])}, which TensorRT does not: {_SYMMETRIC}"
    if not is_dequantize(node) and is_narrow(bound):
        limits = bound["quant_min"], bound["quant_max"]
        return f"it saturates at {limits[0]} and {limits[1]}, TensorRT at -128 and 127: quantize to the full range"
    offsets = constant(0 if zero_point is None else zero_point)
    if constant(scale) is None or offsets is None:
        return "its scale is computed, TensorRT wants it when it builds: calibrate"
    offset = next((z for z in torch.as_tensor(offsets).flatten().tolist() if z), 0)
    if offset:
        return f"its zero point is {offset}, TensorRT has 0 alone: {_SYMMETRIC}"
    return _refuse_axis(node, bound)


def _refuse_axis(node: fx.Node, bound: dict[str, Any]) -> str | None:
    axis = bound.get("axis")
    if axis is None or not is_dequantize(node):
        return None
    if not is_constant(bound["x"]):
        return "it quantizes an activation with a scale per channel: use one scale"
    for user in node.users:
        want = _OUTPUT_AXIS.get(user.target) if len(user.args) > 1 and user.args[1] is node else None
        if want is not None and want != axis:
            return f"its scales go along axis {axis} of a weight whose output channels are axis {want}: quantize along axis {want}"
    return None


_OUTPUT_AXIS: dict[Any, int] = {
    **dict.fromkeys((aten.linear.default, aten.conv1d.default, aten.conv2d.default, aten.conv3d.default), 0),
    **dict.fromkeys((aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding), 0),
    **dict.fromkeys((aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input), 1),
}


def _refuse_groups(node: fx.Node, opset: int, dialect: Dialect) -> str | None:
    bound = arguments_of(node)
    size, (_, zero_point) = bound["group_size"], parameters(node)
    if float8.is_nvfp4(node):
        later = f"FP4 is of opset 23, and opset is {opset}: opset=23" if opset < 23 else None
        return later or float8.refuse_numbers(constant(bound["x"]))
    if bound["output_dtype"] is not torch.float32:
        return f"it dequantizes to {dtype_name(bound['output_dtype'])}, want float32"
    if not all(is_constant(v) for v in (bound["x"], *parameters(node)) if v is not None):
        return "blocks of a tensor that is computed: blocks are for weights"
    if dialect.onnxruntime and is_packable(node):
        return None
    if opset < 21:
        return f"DequantizeLinear has blocks from opset 21, and opset is {opset}: opset=21, or one scale per channel"
    if bits(node) == 4 and fake(bound["x"]).shape[-1] % 2:
        return "an odd number of int4: two share a byte"
    if not dialect.symmetric:
        return None
    if bits(node) != 4 or size not in _BLOCKS:
        return f"blocks of {size} int{bits(node)}, TensorRT has those of 64 and 128 int4"
    if bound["quant_min"] == 0 or (zero_point is not None and bool(constant(zero_point).any())):
        return "its blocks are asymmetric, TensorRT's int4 is symmetric: quantize symmetrically, to -8..7 with zero point 0"
    return None
