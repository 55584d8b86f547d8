"""Rule on 4-bit and blocked quantization: sizes that TensorRT has, and what only weights may be."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from edgecc.targets.tensorrt.lint.graph import Graph, operand, producer, shape
from edgecc.targets.tensorrt.lint.precision import QDQ, QUANTIZED
from edgecc.targets.tensorrt.lint.profiles import Profile
from edgecc.targets.tensorrt.lint.quantization import quantized_type
from edgecc.targets.tensorrt.lint.rule import Hit

#: Sizes of blocks along one axis (TensorRT documentation, Quantization Schemes).
BLOCKS = {"INT4": (64, 128), "FP4": (16,), "FP8": (32,)}


def sizes(graph: Graph, profile: Profile) -> Iterator[Hit]:
    """Q07: blocks go along one axis, in sizes that TensorRT has; INT4 and blocks are for weights, and need opset 21."""
    for node in graph.of(*QDQ):
        kind = QUANTIZED.get(quantized_type(node) or ir.DataType.UNDEFINED)
        scales, data = shape(operand(node, 1)), shape(operand(node, 0))
        blocked = scales is not None and len(scales) > 1 and any(d != 1 for d in scales)
        if kind == "INT4" and not graph.is_constant(operand(node, 0)) and producer(operand(node, 0), "QuantizeLinear") is None:
            yield Hit(node, "it quantizes an activation to int4", "int4 is for weights: quantize activations to int8 or fp8")
        elif kind == "INT4" and data and isinstance(data[-1], int) and data[-1] % 2:
            yield Hit(
                node, f"its last dimension is {data[-1]}: two int4 numbers share a byte", "quantize weights with an even last dimension"
            )
        elif blocked and scales is not None:
            wrong = _fault(graph, kind, scales, data)
            if wrong:
                yield Hit(node, wrong)


def _fault(graph: Graph, kind: str | None, scales: list[int | str | None], data: list[int | str | None] | None) -> str:
    if graph.opset < 21:
        return f"its scales are in blocks, which DequantizeLinear has from opset 21, not in {graph.opset}"
    if kind not in BLOCKS:
        return f"{kind or 'its type'} is quantized in blocks, which TensorRT does for {', '.join(BLOCKS)} only"
    if data is None or len(data) != len(scales):
        return ""
    lengths = [d // s for d, s in zip(data, scales, strict=True) if isinstance(d, int) and isinstance(s, int) and s and d != s]
    if len(lengths) > 1:
        return f"{len(lengths)} axes are in blocks, want 1"
    if lengths and lengths[0] not in BLOCKS[kind]:
        return f"blocks of {kind} have {lengths[0]} numbers, want {' or '.join(map(str, BLOCKS[kind]))}"
    return ""
