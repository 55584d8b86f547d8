"""Load: from an ONNX file to a graph with inlined functions, inferred types and shapes, and what is constant in it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx_ir.passes.common import InlinePass, ShapeInferencePass

from edgecc.errors import UsageError
from edgecc.targets.tensorrt.lint.graph import DEFAULT_DOMAINS, SPARSE, Graph, shape

LIMIT = 1 << 31  # bytes that one protobuf message can hold
_UNFOLDABLE = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}


def load(file: Path) -> Graph:
    """Read a file of less than `LIMIT` bytes. Raises UsageError where it is no ONNX model."""
    proto = _parse(file)
    with _quiet():
        try:
            model = ir.from_proto(proto)
        except (ir.serde.SerdeError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{file} is not a valid ONNX model: {_root(error)}", hint="onnx.checker.check_model says more") from error
        ir.external_data.set_base_dir(model.graph, str(file.parent))
        version = _default(model.opset_imports)
        opsets = {"": version, **{f.name: _default(f.opset_imports) or version for f in model.functions.values()}}
        _check_defined(file, model)
        closed = _inline(model)
        ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)
    nodes = tuple(model.graph.all_nodes())
    return Graph(file, model, nodes, _constants(model, nodes), opsets, closed)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the log lines of onnx-ir: what it would warn of is an error here or a rule."""
    logger = logging.getLogger("onnx_ir")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _parse(file: Path) -> onnx.ModelProto:
    try:
        proto: onnx.ModelProto = onnx.ModelProto.FromString(file.read_bytes())
    except DecodeError as error:
        raise UsageError(f"{file} is not an ONNX model, or is cut short: {error}", hint="export the model again") from error
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from error
    if not proto.HasField("graph") or not (proto.graph.node or proto.graph.output):
        raise UsageError(f"{file} is not an ONNX model: it holds no graph", hint="export the model again")
    if not proto.opset_import:
        raise UsageError(f"{file} is not a valid ONNX model: it names no opset", hint="export the model again")
    _replace_sparse(proto.graph)
    return proto


def _replace_sparse(graph: onnx.GraphProto) -> None:
    """Mark Constants of a sparse tensor, which onnx-ir does not read and TensorRT does not take, and keep their shape."""
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.SPARSE_TENSOR:
                sparse = attribute.sparse_tensor
                dense = onnx.TensorProto(data_type=sparse.values.data_type, dims=sparse.dims)
                node.metadata_props.add(key=SPARSE, value=attribute.name)
                attribute.Clear()
                attribute.name, attribute.type = "value", onnx.AttributeProto.TENSOR
                attribute.t.CopyFrom(dense)
            elif attribute.type == onnx.AttributeProto.GRAPH:
                _replace_sparse(attribute.g)


def _root(error: BaseException) -> BaseException:
    """The first cause: onnx-ir wraps an error once for each level of the model."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _default(imports: dict[str, int]) -> int:
    return imports.get("", imports.get("ai.onnx", 0))


def _inline(model: ir.Model) -> tuple[str, ...]:
    """Put function bodies where they are called; those that cannot be are named."""
    here = dict(model.opset_imports)

    def fits(function: ir.Function) -> bool:
        return all(here.get(domain, version) == version for domain, version in function.opset_imports.items())

    closed = tuple(f.name for f in model.functions.values() if not fits(f))
    try:
        InlinePass(criteria=fits)(model)
    except ir.passes.PassError as error:
        raise UsageError(
            f"the functions of the model cannot be inlined: {error}", hint="functions may not call each other in a circle"
        ) from error
    return closed


def _check_defined(file: Path, model: ir.Model) -> None:
    """Raises UsageError where a node reads what nothing makes."""
    for node in model.graph.all_nodes():
        for value in node.inputs:
            if value is not None and value.name and not value.is_initializer() and not value.is_graph_input() and value.producer() is None:
                raise UsageError(
                    f"{file} is not a valid ONNX model: node {node.name!r} ({node.op_type}) reads {value.name!r}, which nothing makes",
                    hint="export the model again",
                )


def _constants(model: ir.Model, nodes: tuple[ir.Node, ...]) -> frozenset[ir.Value]:
    """Weights, Constant nodes, shapes that are static, and what is computed from these alone."""
    found: set[ir.Value] = set(model.graph.initializers.values())
    for node in nodes:
        if isinstance(node.graph, ir.Graph):
            found.update(node.graph.initializers.values())
        given = [v for v in node.inputs if v is not None and v.name]
        static = node.op_type in ("Shape", "Size") and all(isinstance(d, int) for d in shape(node.inputs[0]) or [None])
        folds = all(v in found for v in given) and (given or node.op_type == "Constant")
        holds = any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values())
        if (static or folds) and not holds and node.op_type not in _UNFOLDABLE and node.domain in DEFAULT_DOMAINS:
            found.update(node.outputs)
    return frozenset(found)
