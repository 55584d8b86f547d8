"""Rules on shapes: symbols of dynamic inputs, inferred ranks, and operators whose output shape depends on data."""

from __future__ import annotations

import re
from collections.abc import Iterator

from edgecc.targets.tensorrt.lint.graph import Graph, shape
from edgecc.targets.tensorrt.lint.profiles import Profile
from edgecc.targets.tensorrt.lint.rule import Hit

#: Names that torch.export gives to a dimension that nobody named.
UNNAMED = re.compile(r"s\d+")
DATA_DEPENDENT = ("If", "Loop", "Scan", "NonZero", "NonMaxSuppression")


def symbols(graph: Graph, profile: Profile) -> Iterator[Hit]:
    """T09: dynamic dimensions are named, and the batch has one name (TensorRT documentation, Working with Dynamic Shapes).

    TensorRT takes dimensions of the same name to be equal; every dynamic input needs a profile of smallest, best and largest shape.
    """
    batches = {}
    for value in graph.inputs:
        sizes = shape(value)
        if sizes is None:
            yield Hit(value, "the input has no shape", "declare at least its rank")
            continue
        unknown = [i for i, d in enumerate(sizes) if d is None]
        if unknown:
            yield Hit(value, f"dimensions {unknown} of the input are dynamic and have no name")
        generated = [d for d in sizes if isinstance(d, str) and UNNAMED.fullmatch(d)]
        if generated:
            yield Hit(value, f"the input has the generated dimension names {', '.join(generated)}")
        if sizes and isinstance(sizes[0], str):
            batches[value.name] = sizes[0]
    if len(set(batches.values())) > 1:
        yield Hit(None, f"dimension 0 has several names: {', '.join(f'{d} of {n}' for n, d in batches.items())}")


def inferred(graph: Graph, profile: Profile) -> Iterator[Hit]:
    """T14: rank and type of every tensor are known before the build (TensorRT documentation, ONNX parser; onnx.shape_inference)."""
    for node in graph.nodes:
        lacking = [v for v in node.outputs if v.name and (v.dtype is None or v.shape is None)]
        for value in lacking:
            yield Hit(node, f"{value.name!r} has no known {'type' if value.dtype is None else 'rank'}")


def data_dependent(graph: Graph, profile: Profile) -> Iterator[Hit]:
    """T15: control flow and data-dependent shapes split the engine and bar CUDA graphs (TensorRT documentation, Working with Loops,
    Conditionals, and Dynamic Shapes: Dynamically Shaped Output).
    """
    for node in graph.of(*DATA_DEPENDENT):
        yield Hit(node, f"{node.op_type} makes shapes or the path of execution depend on data")
