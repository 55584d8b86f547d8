"""Rules on single Q and DQ nodes: zero points, scales, axes, blocks, pairs, biases.

TensorRT's scheme is symmetric and explicit (TensorRT documentation, Working with Quantized Types: Quantization Schemes and
Explicit Quantization). What its parser refuses was read in onnx-tensorrt 10.1, onnxOpImporters.cpp, QuantDequantLinearHelper.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from edgecc.targets.tensorrt.lint.graph import Array, Graph, attribute, operand, producer, shape
from edgecc.targets.tensorrt.lint.operators import is_read
from edgecc.targets.tensorrt.lint.precision import QDQ, QUANTIZED
from edgecc.targets.tensorrt.lint.profiles import Profile
from edgecc.targets.tensorrt.lint.rule import Hit

#: Weighted operators that take a bias as input 2. MatMul takes none.
BIASED = ("Conv", "ConvTranspose", "Gemm")
_CARRY = ("Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Cast")


def quantized_type(node: ir.Node) -> ir.DataType | None:
    """The type that Q makes or DQ reads; None where neither a zero point nor `output_dtype` says it."""
    if node.op_type == "DequantizeLinear":
        value = operand(node, 0)
        return value.dtype if value is not None else None
    zero = operand(node, 2)
    if zero is not None:
        return zero.dtype
    asked = attribute(node, "output_dtype", 0)
    return ir.DataType(asked) if asked else None


def dequantizer(value: ir.Value | None) -> ir.Node | None:
    """The DQ that a value comes from, through operators that move numbers only."""
    node = producer(value)
    while node is not None and node.op_type in _CARRY:
        node = producer(node.inputs[0])
    return node if node is not None and node.op_type == "DequantizeLinear" else None


def is_bias(node: ir.Node) -> bool:
    """Whether what a Q or DQ makes is the bias of a weighted operator."""
    pending, readers = [node.outputs[0]], []
    while pending:
        for user, index in pending.pop().uses():
            readers.append((user.op_type, index))
            if user.op_type in (*_CARRY, "DequantizeLinear"):
                pending.append(user.outputs[0])
    return any(operator in BIASED and index == 2 for operator, index in readers)


def zero_points(graph: Graph, profile: Profile) -> Iterator[Hit]:
    """Q01: the quantized type is signed and the zero point zero. Without one, TensorRT takes INT8 and ONNX UINT8."""
    for node in graph.of(*QDQ):
        dtype, zero = quantized_type(node), operand(node, 2)
        if dtype == ir.DataType.INT32 and is_bias(node):
            continue  # Q05
        if dtype is None and node.op_type == "QuantizeLinear":
            yield Hit(node, "it has no zero point: int8 to TensorRT, uint8 to ONNX Runtime", "give an int8 zero point of zeros")
        elif dtype is not None and dtype not in QUANTIZED:
            yield Hit(
                node,
                f"it quantizes to {dtype.name.lower()}",
                "quantize to int8: symmetric, ActivationSymmetric and QInt8 in ONNX Runtime's quantizer",
            )
        elif zero is not None and not graph.is_constant(zero):
            yield Hit(node, "its zero point is computed")
        elif _nonzero(graph.read(zero)):
            yield Hit(
                node,
                f"its zero point is {_some(graph.read(zero))}",
                "quantize symmetrically: ActivationSymmetric in ONNX Runtime's quantizer",
            )


def _nonzero(numbers: Array | None) -> bool:
    return numbers is not None and bool(np.any(numbers.astype(np.float32) != 0))


def _some(numbers: Array | None) -> str:
    return ", ".join(f"{v:g}" for v in numbers.reshape(-1)[:4].astype(np.float32)) if numbers is not None else ""


def scales(graph: Graph, profile: Profile) -> Iterator[Hit]:
    """Q02: scales are constants, finite and above zero. NVFP4 dequantizes the scales themselves by a constant scalar."""
    for node in graph.of(*QDQ):
        scale = operand(node, 1)
        if not graph.is_constant(scale):
            yield Hit(node, "its scale is computed", "calibrate: TensorRT wants scales when it builds")
            continue
        numbers = graph.read(scale)
        if numbers is None:
            continue
        numbers = numbers.astype(np.float32)
        bad = numbers[~(np.isfinite(numbers) & (numbers > 0))]
        if bad.size:
            yield Hit(node, f"{bad.size} of its {numbers.size} scales are not finite and above 0: {_some(bad)}")


def channels(graph: Graph, profile: Profile) -> Iterator[Hit]:
    """Q03: scales per channel are for constants only, one for each output channel of the operator that reads them."""
    for node in graph.of(*QDQ):
        sizes = shape(operand(node, 1))
        if sizes is None or len(sizes) != 1 or sizes[0] in (1, None):
            continue
        data = shape(operand(node, 0))
        axis = attribute(node, "axis", 1)
        if not graph.is_constant(operand(node, 0)):
            yield Hit(node, f"it quantizes an activation with {sizes[0]} scales", "use one scale for an activation")
        elif data is None:
            continue
        elif not -len(data) <= axis < len(data):
            yield Hit(node, f"axis {axis} is not one of its {len(data)} dimensions")
        elif data[axis] != sizes[0]:
            yield Hit(node, f"it has {sizes[0]} scales for the {data[axis]} channels of axis {axis}")
        elif not is_bias(node) and node.op_type == "DequantizeLinear":
            yield from _wrong_axis(node, axis % len(data))


def _wrong_axis(node: ir.Node, axis: int) -> Iterator[Hit]:
    value = node.outputs[0]
    users = list(value.uses())
    while len(users) == 1 and users[0][0].op_type in ("Transpose", "Identity"):
        moved = users[0][0]
        order = attribute(moved, "perm") or list(range(len(shape(value) or ())))[::-1]
        axis = list(order).index(axis) if moved.op_type == "Transpose" and axis in order else axis
        value = moved.outputs[0]
        users = list(value.uses())
    for user, index in users:
        want = _output_axis(user, len(shape(value) or ())) if index == 1 else None
        if want is not None and want != axis:
            yield Hit(node, f"its scales go along axis {axis} of the weight of {user.op_type}, whose output channels are axis {want}")


def _output_axis(node: ir.Node, rank: int) -> int | None:
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    return {"Conv": 0, "ConvTranspose": 1, "MatMul": rank - 1}.get(node.op_type)


def biases(graph: Graph, profile: Profile) -> Iterator[Hit]:
    """Q05: a bias stays in floating point. TensorRT's DQ takes no INT32 ("only activation types allowed as input to this layer":
    onnx-tensorrt issue 850, ONNX Runtime issue 14229), and adds the bias in high precision.
    """
    for node in graph.of(*BIASED):
        source = dequantizer(operand(node, 2))
        if source is not None:
            kind = quantized_type(source)
            yield Hit(
                node, f"its bias is dequantized from {kind.name.lower() if kind else 'an integer'} by {source.name or source.op_type}"
            )


def pairs(graph: Graph, profile: Profile) -> Iterator[Hit]:
    """Q08: what Q makes of an activation, only DQ reads, with the same scale. Readers that T02 and T03 refuse are theirs."""
    for node in graph.of("QuantizeLinear"):
        if graph.is_constant(operand(node, 0)):
            continue
        for user in node.outputs[0].consumers():
            if not is_read(user, profile):
                continue
            if user.op_type != "DequantizeLinear":
                yield Hit(
                    node, f"{user.op_type} {user.name} reads the quantized numbers", "dequantize before every operator: Q is followed by DQ"
                )
            elif not _same(graph, operand(node, 1), operand(user, 1)):
                yield Hit(node, f"{user.name or 'its DQ'} dequantizes with another scale")


def _same(graph: Graph, one: ir.Value | None, other: ir.Value | None) -> bool:
    if one is other:
        return True
    first, second = graph.read(one), graph.read(other)
    if first is None or second is None:
        return True
    return bool(np.array_equal(first.reshape(-1).astype(np.float32), second.reshape(-1).astype(np.float32), equal_nan=True))
