"""Rules on types: precision that stands in the graph, tensors that TensorRT cannot hold, numbers that float16 cannot."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from edgecc.targets.tensorrt.lint.graph import Graph, producer
from edgecc.targets.tensorrt.lint.operators import is_read
from edgecc.targets.tensorrt.lint.profiles import Profile
from edgecc.targets.tensorrt.lint.rule import Hit

QUANTIZED = {
    ir.DataType.INT8: "INT8",
    ir.DataType.INT4: "INT4",
    ir.DataType.FLOAT8E4M3FN: "FP8",
    ir.DataType.FLOAT4E2M1: "FP4",
}
NAMES = {
    **QUANTIZED,
    ir.DataType.FLOAT: "FP32",
    ir.DataType.FLOAT16: "FP16",
    ir.DataType.BFLOAT16: "BF16",
    ir.DataType.DOUBLE: "DOUBLE",
    ir.DataType.INT32: "INT32",
    ir.DataType.INT64: "INT64",
    ir.DataType.UINT8: "UINT8",
    ir.DataType.BOOL: "BOOL",
}
QDQ = ("QuantizeLinear", "DequantizeLinear")
LARGEST_HALF = 65504.0
#: Operators that hand numbers on as they are.
_CARRY = ("Identity", "Reshape", "Expand", "Unsqueeze", "Squeeze", "Transpose", "Concat", "Slice", "Where", "Tile", "Gather")
_CHUNK = 1 << 20


def asked_precision(graph: Graph, profile: Profile) -> Iterator[Hit]:
    """T05: a strongly typed engine is as precise as its file (TensorRT documentation, Strongly Typed Networks; migration guide to 11).

    A weakly typed release takes the precision from builder flags, so nothing can be missing in its file.
    """
    floats = {v.dtype for v in graph.values()} & {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
    if profile.strongly_typed and floats == {ir.DataType.FLOAT} and not any(graph.of(*QDQ)):
        yield Hit(None, "every floating-point tensor is FP32 and nothing is quantized: the engine computes in FP32")


def held_types(graph: Graph, profile: Profile) -> Iterator[Hit]:
    """T06: no float64, UINT8 only as input or output, quantized types only between Q and DQ (onnx-tensorrt docs/operators.md, notes)."""
    for value in graph.values():
        dtype = value.dtype
        if dtype is None or _between_refused(value, profile):
            continue
        name = NAMES.get(dtype, dtype.name)
        if name == "DOUBLE":
            yield Hit(value, "it is float64, which TensorRT casts down to float32", "export in float32 or float16")
        elif name not in profile.types and (dtype in QUANTIZED or not _belongs_to_qdq(value)):
            yield Hit(value, f"TensorRT {profile.version} has no type {name}", "use a type of the profile")
        elif _belongs_to_qdq(value):
            continue
        elif name == "UINT8" and not _only_cast(value):
            yield Hit(value, "it is uint8 inside of the network", "cast uint8 inputs at once, and to uint8 only for an output")
        elif dtype in QUANTIZED:
            yield Hit(value, f"it is {name} outside of Q/DQ")


def _between_refused(value: ir.Value, profile: Profile) -> bool:
    """Whether operators that T02 and T03 refuse are the reason for an integer type: there is nothing else to mend."""
    around = [n for n in (value.producer(), *value.consumers()) if n is not None and n.op_type not in QDQ]
    integers = value.dtype in (*QUANTIZED, ir.DataType.UINT8)
    return integers and bool(around) and not any(is_read(node, profile) for node in around)


def _belongs_to_qdq(value: ir.Value) -> bool:
    """What Q makes, or a fixed tensor that only Q or DQ reads: rules Q01 to Q08 judge these."""
    read = [node.op_type in QDQ for node, _ in value.uses()]
    fixed = value.is_graph_input() or value.is_initializer() or producer(value, "Constant") is not None
    return producer(value, "QuantizeLinear") is not None or (fixed and bool(read) and all(read))


def _only_cast(value: ir.Value) -> bool:
    source = value.producer()
    into = value.is_graph_input() and all(node.op_type == "Cast" for node, _ in value.uses())
    return into or (value.is_graph_output() and source is not None and source.op_type == "Cast")


def half_range(graph: Graph, profile: Profile) -> Iterator[Hit]:
    """T08: no constant beyond 65504, the largest float16 (IEEE 754 binary16), is or becomes float16.

    A mask of -3.4e38 becomes -inf, and a row of -inf becomes NaN in Softmax.
    """
    if not any(v.dtype == ir.DataType.FLOAT16 for v in graph.values()):
        return
    for value in graph.values():
        if value not in graph.constants or ir.convenience.get_const_tensor(value) is None:
            continue
        if value.dtype == ir.DataType.FLOAT16 or (value.dtype == ir.DataType.FLOAT and _becomes_half(value)):
            largest = _largest(graph, value)
            if largest > LARGEST_HALF:
                yield Hit(value, f"it reaches {largest:g} in float16, whose largest number is {LARGEST_HALF:g}")


def _becomes_half(value: ir.Value) -> bool:
    seen, pending = {value}, [value]
    while pending:
        for node, _ in pending.pop().uses():
            if node.op_type == "Cast" and node.outputs[0].dtype == ir.DataType.FLOAT16:
                return True
            if node.op_type in _CARRY and node.outputs[0] not in seen:
                seen.add(node.outputs[0])
                pending.append(node.outputs[0])
    return False


def _largest(graph: Graph, value: ir.Value) -> float:
    """The largest magnitude, read in pieces: a mapped file need not fit into memory. NaN counts as infinite."""
    numbers = graph.read(value)
    if numbers is None or not numbers.size:
        return 0.0
    flat = numbers.reshape(-1)
    pieces = (np.abs(flat[i : i + _CHUNK].astype(np.float32)) for i in range(0, flat.size, _CHUNK))
    return max(float(np.nan_to_num(p, nan=np.inf, posinf=np.inf).max()) for p in pieces)
