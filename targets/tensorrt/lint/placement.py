"""Rules on where Q/DQ pairs stand: what they say costs speed or accuracy, and bars no build unless a scale is absurd.

TensorRT documentation, Explicit Quantization, Q/DQ Layer-Placement Recommendations: the inputs of operators that multiply by
weights are quantized, and their outputs go on in high precision.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from edgecc.targets.tensorrt.lint.graph import Graph, attribute, operand, producer, shape
from edgecc.targets.tensorrt.lint.profiles import Profile
from edgecc.targets.tensorrt.lint.quantization import dequantizer, quantized_type
from edgecc.targets.tensorrt.lint.rule import Hit

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
#: Types of weights whose activations stay in floating point.
WEIGHT_ONLY = (ir.DataType.INT4, ir.DataType.FLOAT4E2M1)
#: Fewer channels do not fill an INT8 tensor-core tile (TensorRT documentation, Optimizing for Tensor Cores).
FEWEST_CHANNELS = 16
#: A larger scale comes from a sentinel such as -1e9 in a mask, not from numbers.
LARGEST_SCALE = 1e4


def half_quantized(graph: Graph, profile: Profile) -> Iterator[Hit]:
    """Q04: both inputs of a weighted operator are quantized, or neither: a lone one is dequantized and gains nothing."""
    for node in graph.of(*WEIGHTED):
        sources = [dequantizer(operand(node, i)) for i in (0, 1)]
        given = [s for s in sources if s is not None]
        if len(given) == 1 and quantized_type(given[0]) not in WEIGHT_ONLY:
            lacking = "weight" if sources[0] is not None else "activation"
            yield Hit(node, f"its {lacking} is not quantized, its other input is: it computes in floating point")


def quantized_outputs(graph: Graph, profile: Profile) -> Iterator[Hit]:
    """Q06: the output of a weighted operator is not quantized before its activation or Add: the pair bars their fusion.

    A pair that leads straight into the next weighted operator is that one's input, and stays.
    """
    for node in graph.of("QuantizeLinear"):
        made = producer(operand(node, 0), *WEIGHTED)
        if made is None or not graph.is_constant(operand(made, 1)):
            continue
        results = [d.outputs[0] for d in node.outputs[0].consumers() if d.op_type == "DequantizeLinear"]
        readers = {user.op_type for r in results for user in r.consumers()} - set(WEIGHTED)
        if readers or any(r.is_graph_output() for r in results):
            before = ", ".join(sorted(readers)) or "the output of the model"
            yield Hit(node, f"it quantizes what {made.op_type} {made.name} makes, before {before}")


def residuals(graph: Graph, profile: Profile) -> Iterator[Hit]:
    """Q09: where a quantized convolution is added to a residual, the residual is quantized: else their fusion reads floats."""
    for node in graph.of("Add"):
        convolutions = [producer(v, "Conv") for v in node.inputs]
        quantized = [c for c in convolutions if c is not None and dequantizer(operand(c, 0)) and dequantizer(operand(c, 1))]
        if not quantized or any(graph.is_constant(v) or dequantizer(v) is not None for v in node.inputs):
            continue
        yield Hit(node, f"it adds what {quantized[0].name or 'a quantized Conv'} makes to a residual in floating point")


def small_quantized(graph: Graph, profile: Profile) -> Iterator[Hit]:
    """Q10: products of a vector and operators of few channels gain nothing from INT8 (TensorRT issues 3197 and 4554)."""
    for node in graph.of(*WEIGHTED):
        sources = [dequantizer(operand(node, i)) for i in (0, 1)]
        weight = shape(operand(node, 1))
        if any(s is None for s in sources) or weight is None or not graph.is_constant(operand(node, 1)):
            continue
        few = [(n, c) for n, c in _channels(node, weight) if isinstance(c, int) and c < FEWEST_CHANNELS]
        if few:
            yield Hit(node, f"it has {few[0][1]} {few[0][0]} channels and is quantized; INT8 pays from {FEWEST_CHANNELS}")
        elif node.op_type in ("MatMul", "Gemm") and _rows(node) == 1:
            yield Hit(node, "it multiplies one row and is quantized: its time is that of reading the weight")


def _channels(node: ir.Node, weight: list[int | str | None]) -> list[tuple[str, int | str | None]]:
    if node.op_type in ("Conv", "ConvTranspose"):
        groups = attribute(node, "group", 1)
        out, into = (0, 1) if node.op_type == "Conv" else (1, 0)
        counts = {out: weight[out], into: weight[into]}
        grouped = counts[1]
        counts[1] = grouped * groups if isinstance(grouped, int) else grouped
        return [("input", counts[into]), ("output", counts[out])]
    transposed = node.op_type == "Gemm" and attribute(node, "transB", 0)
    pair = (weight[-1], weight[-2]) if transposed else (weight[-2] if len(weight) > 1 else weight[-1], weight[-1])
    return [("input", pair[0]), ("output", pair[1])]


def _rows(node: ir.Node) -> int | None:
    """Rows of the left matrix, None where they are not known."""
    sizes = shape(operand(node, 0))
    if sizes is None or not all(isinstance(d, int) for d in sizes):
        return None
    inner = 0 if node.op_type == "Gemm" and attribute(node, "transA", 0) else len(sizes) - 1
    return math.prod(int(d or 0) for i, d in enumerate(sizes) if i != inner)


def masks(graph: Graph, profile: Profile) -> Iterator[Hit]:
    """Q11: masks are not quantized. Their sentinel stretches the scale until every score is zero, which refuses the file."""
    guilty: dict[ir.Node, str] = {}
    for softmax in graph.of("Softmax"):
        added = producer(operand(softmax, 0), "Add", "Where")
        for value in added.inputs if added is not None else ():
            source = dequantizer(value)
            if source is not None and not _is_score(source):
                guilty[source] = f"it quantizes the mask of Softmax {softmax.name}"
    for node in graph.of("QuantizeLinear", "DequantizeLinear"):
        scale = graph.read(operand(node, 1))
        largest = float(np.max(scale.astype(np.float32))) if scale is not None and scale.size else 0.0
        if largest > LARGEST_SCALE:
            yield Hit(node, f"its scale is {largest:g}: a sentinel was calibrated as if it were a number", severity="E")
        elif node in guilty:
            yield Hit(node, guilty[node])


def _is_score(source: ir.Node) -> bool:
    """Whether a DQ gives attention scores: what a matmul makes, scaled or not."""
    quantizer = producer(operand(source, 0), "QuantizeLinear")
    node = producer(operand(quantizer, 0)) if quantizer is not None else None
    while node is not None and node.op_type in ("Mul", "Div", "Add"):
        node = next((p for p in map(producer, node.inputs) if p is not None and p.op_type in ("MatMul", "Mul", "Div", "Add")), None)
    return node is not None and node.op_type == "MatMul"
