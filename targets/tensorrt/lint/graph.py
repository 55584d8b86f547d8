"""Graph: a read-only view of an ONNX file, its nodes, types, shapes and constants.

External data stays on disk: a weight is mapped into memory when a rule reads it, and only where the file holds it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from edgecc.errors import UsageError
from edgecc.targets.tensorrt.lint.external import fault

DEFAULT_DOMAINS = ("", "ai.onnx")
SPARSE = "edgecc.sparse"  # metadata of a Constant whose tensor was sparse
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Graph:
    """`nodes` in the order of execution, those of subgraphs after the node that holds them.

    `constants`: values that TensorRT can know when it builds; `opsets`: the default domain's version, by function or `""`;
    `closed`: functions whose body could not be inlined.
    """

    file: Path
    model: ir.Model
    nodes: tuple[ir.Node, ...]
    constants: frozenset[ir.Value]
    opsets: dict[str, int]
    closed: tuple[str, ...]

    @property
    def opset(self) -> int:
        return self.opsets[""]

    @property
    def inputs(self) -> list[ir.Value]:
        """The inputs that a caller gives: not those that an initializer fills."""
        return [v for v in self.model.graph.inputs if not v.is_initializer()]

    def of(self, *operators: str) -> Iterator[ir.Node]:
        """Nodes of the default domain by operator."""
        return (n for n in self.nodes if n.op_type in operators and n.domain in DEFAULT_DOMAINS)

    def initializers(self) -> Iterator[ir.Value]:
        """Weights of the graph and of every subgraph, each once."""
        graphs = {id(n.graph): n.graph for n in self.nodes if n.graph is not None}
        for graph in {id(self.model.graph): self.model.graph, **graphs}.values():
            if isinstance(graph, ir.Graph):
                yield from graph.initializers.values()

    def values(self) -> Iterator[ir.Value]:
        """Every tensor: inputs, weights and what nodes make."""
        yield from self.inputs
        yield from self.initializers()
        for node in self.nodes:
            yield from (v for v in node.outputs if v.name)

    def is_constant(self, value: ir.Value | None) -> bool:
        return value is not None and value in self.constants

    def read(self, value: ir.Value | None) -> Array | None:
        """The numbers of a constant, through Identity and Cast; None where it is none or the file does not hold it."""
        if value is None or value not in self.constants:
            return None
        node = value.producer()
        if node is not None and SPARSE in node.metadata_props:
            return None
        tensor = ir.convenience.get_const_tensor(value)
        if tensor is not None:
            return self._numbers(value, tensor)
        return self.read(node.inputs[0]) if node is not None and node.op_type in ("Identity", "Cast") else None

    def _numbers(self, value: ir.Value, tensor: ir.TensorProtocol) -> Array | None:
        if tensor.dtype == ir.DataType.STRING or (isinstance(tensor, ir.ExternalTensor) and fault(tensor)):
            return None
        try:
            return tensor.numpy()
        except (ValueError, AssertionError) as error:  # onnx-ir asserts that the data have a type that they can have
            raise UsageError(
                f"{self.file} is not a valid ONNX model: the data of {value.name!r} do not fit its shape {list(tensor.shape)}: {error}",
                hint="export the model again",
            ) from error


def producer(value: ir.Value | None, *operators: str) -> ir.Node | None:
    """The node of the default domain that makes a value, None where it is another operator than those asked for."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.domain in DEFAULT_DOMAINS and (not operators or node.op_type in operators) else None


def operand(node: ir.Node, index: int) -> ir.Value | None:
    """An input, None where an optional one is absent."""
    value = node.inputs[index] if index < len(node.inputs) else None
    return value if value is not None and value.name else None


def shape(value: ir.Value | None) -> list[int | str | None] | None:
    """Sizes, symbols and unknowns; None where even the rank is unknown."""
    if value is None or value.shape is None:
        return None
    return [d if isinstance(d, int) else d.value for d in value.shape]


def attribute(node: ir.Node, name: str, default: Any = None) -> Any:
    found = node.attributes.get(name)
    return default if found is None or found.is_ref() else found.value
