"""Rules on patterns that TensorRT fuses: normalizations, GELU, attention."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from edgecc.targets.tensorrt.lint.graph import Graph, producer
from edgecc.targets.tensorrt.lint.profiles import Profile
from edgecc.targets.tensorrt.lint.rule import Hit

#: sqrt(2 / pi), the factor of the tanh form of GELU (Hendrycks and Gimpel 2016, section 2).
TANH_FACTOR = np.sqrt(2 / np.pi)
#: The opset in which each fused operator came (ONNX, Operators.md).
SINCE = {"LayerNormalization": 17, "Gelu": 20, "RMSNormalization": 23}
#: How many operators a mask and a scale may take between two matmuls and the softmax.
REACH = 6


def decomposed(graph: Graph, profile: Profile) -> Iterator[Hit]:
    """T11: a normalization or GELU is one operator, whose statistics stay in float32 (TensorRT documentation, Best Practices:
    Layer Normalization; TensorRT issues 2564 and 4493). An operator that the release does not read is not asked for.
    """
    for node in graph.nodes:
        whole = _whole(graph, node)
        if whole is None or whole not in profile.operators:
            continue
        need = SINCE[whole]
        if need <= profile.opsets[1]:
            how = f"emit {whole}" + (f", which needs opset {need}" if graph.opset < need else "")
            yield Hit(node, f"it belongs to a decomposed {whole}", how)


def _whole(graph: Graph, node: ir.Node) -> str | None:
    """The operator of which a node is the tell-tale part: the root of a variance, the error function, the tanh."""
    if node.op_type == "Sqrt":
        added = producer(node.inputs[0], "Add")
        mean = next((m for m in map(_mean, added.inputs) if m is not None), None) if added is not None else None
        return _normalization(mean) if mean is not None else None
    if node.op_type == "Erf":
        one = [graph.read(v) for user in node.outputs[0].consumers() if user.op_type == "Add" for v in user.inputs]
        return "Gelu" if any(v is not None and v.size == 1 and np.isclose(float(v.reshape(())), 1) for v in one) else None
    if node.op_type == "Tanh":
        scaled = producer(node.inputs[0], "Mul")
        factors = [graph.read(v) for v in scaled.inputs] if scaled is not None else []
        return (
            "Gelu"
            if any(v is not None and v.size == 1 and np.isclose(float(v.reshape(())), TANH_FACTOR, rtol=1e-3) for v in factors)
            else None
        )
    return None


def _mean(value: ir.Value | None) -> ir.Node | None:
    """A mean of squares."""
    mean = producer(value, "ReduceMean")
    squared = producer(mean.inputs[0], "Pow", "Mul") if mean is not None else None
    square = squared is not None and (squared.op_type == "Pow" or squared.inputs[0] is squared.inputs[1])
    return mean if square else None


def _normalization(mean: ir.Node) -> str:
    """LayerNormalization where the squared numbers are differences from a mean, RMSNormalization elsewhere."""
    squared = producer(mean.inputs[0], "Pow", "Mul")
    difference = producer(squared.inputs[0], "Sub") if squared is not None else None
    centred = difference is not None and producer(difference.inputs[1], "ReduceMean") is not None
    return "LayerNormalization" if centred else "RMSNormalization"


def attention(graph: Graph, profile: Profile) -> Iterator[Hit]:
    """T13: between the two matmuls of an attention stand a mask and the softmax only, and the scale before the first
    (TensorRT documentation, Multi-Head Attention Fusion; TensorRT issues 3243 and 3620).
    """
    for softmax in graph.of("Softmax"):
        scale, product = _scores(graph, softmax)
        if product is None:
            continue
        after = _until_matmul(softmax)
        if after is None:
            continue
        for operator in ("IsNaN", "Where", "Div", "Mul"):
            if operator in after:
                yield Hit(
                    softmax, f"{operator} stands between Softmax and the second matmul", "export so that no guard or scale follows Softmax"
                )
                break
        if scale is not None:
            yield Hit(
                softmax,
                f"the scores are scaled by {scale.name or scale.op_type} after the first matmul",
                "scale the query before the matmul",
            )


def _scores(graph: Graph, softmax: ir.Node) -> tuple[ir.Node | None, ir.Node | None]:
    """The scale of the scores, if it follows the matmul, and the matmul that makes them."""
    scale: ir.Node | None = None
    value = softmax.inputs[0]
    for _ in range(REACH):
        node = producer(value)
        if node is None or node.op_type == "MatMul":
            return scale, node
        if node.op_type not in ("Add", "Mul", "Div", "Where", "Cast"):
            return None, None
        paths = [v for v in node.inputs if v is not None and not graph.is_constant(v) and v.dtype != ir.DataType.BOOL]
        if node.op_type in ("Mul", "Div") and len(paths) == 1:
            scale = node
        through = [v for v in paths if producer(v, "MatMul", "Add", "Mul", "Div", "Where", "Cast") is not None]
        value = next((v for v in through if producer(v, "MatMul") is not None), through[0] if through else None)
    return None, None


def _until_matmul(softmax: ir.Node) -> set[str] | None:
    """Operators on the way from a softmax to a matmul, None where it leads to none."""
    met: set[str] = set()
    pending, found = [softmax.outputs[0]], False
    for _ in range(REACH):
        users = [n for v in pending for n in v.consumers()]
        found = found or any(n.op_type == "MatMul" for n in users)
        onward = [n for n in users if n.op_type in ("IsNaN", "Where", "Div", "Mul", "Cast", "Identity", "Dropout")]
        met.update(n.op_type for n in onward)
        pending = [n.outputs[0] for n in onward]
    return met if found else None
