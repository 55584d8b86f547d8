"""Lower: a Program to an ONNX model, call by call through the handler table."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from edgecc.errors import InternalError
from edgecc.ir.ops import operator_name
from edgecc.ir.program import Program
from edgecc.ir.provenance import describe
from edgecc.targeting.lowering import arguments_of
from edgecc.targets.onnx_common.builder import Builder
from edgecc.targets.onnx_common.lowering import opmath
from edgecc.targets.onnx_common.lowering.dialect import PLAIN, Dialect
from edgecc.targets.onnx_common.lowering.table import TABLE
from edgecc.targets.onnx_common.sizes import same_sizes
from edgecc.targets.onnx_common.widen import widen_missing


def lower(program: Program, opset: int, *, attention: bool = False, dialect: Dialect = PLAIN) -> Any:
    """Lower to an onnx_ir.Model of this opset, whose inputs and outputs have the names of the signature.

    `attention`: attention becomes the operator of that name, from opset 23 on. `dialect`: how quantized numbers are
    written. Weights keep their PyTorch names and their memory. What ONNX
    has not in half precision is computed in float32. Raises InternalError, naming node and source line, where a call that was not refused cannot be lowered.
    """
    program = dialect.rewrite(program)
    builder = Builder(program, opset, attention=attention, onnxruntime=dialect.onnxruntime)
    values: dict[fx.Node, Any] = {}
    for node, spec in zip(program.inputs(), program.signature.inputs, strict=True):
        values[node] = builder.input(spec.name, node.meta["val"])
    for node in program.graph.nodes:
        builder.at = node
        if node.op == "get_attr":
            values[node] = builder.weight(node)
        elif node.op == "call_function":
            values[node] = _call(builder, node, values)
    specs = zip(program.outputs(), program.signature.outputs, strict=True)
    model = builder.model([(values[node], node, spec.name) for node, spec in specs])
    widen_missing(model)
    return model


def _call(builder: Builder, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    named = arguments_of(node) if isinstance(node.target, torch._ops.OpOverload) else {}
    positional = () if named else node.args
    made = len(builder.nodes)
    try:
        assert callable(node.target)
        given, options = [_value(a, values) for a in positional], {k: _value(a, values) for k, a in named.items()}
        wide = opmath.is_wide(node)
        if wide:
            options = {k: opmath.widened(builder, v) for k, v in options.items()}
        result = TABLE[node.target].lower(builder, node, *given, **options)
        result = opmath.narrowed(builder, node, result) if wide else result
    except Exception as error:  # onnx_ir raises whatever it likes; the node is what a person needs to know
        place = describe(node) or "source unknown"
        raise InternalError(f"lowering {node.name} = {operator_name(node.target)} ({place}) failed: {error}") from error
    if isinstance(node.meta["val"], torch.Tensor) and len(builder.nodes) > made:
        _check(builder, node, result)
        builder.rename(result, node.name)
    return result


def _check(builder: Builder, node: fx.Node, value: Any) -> None:
    """A handler must give the dtype and the shape that PyTorch gives."""
    found, want = (builder.dtype(value), builder.sizes(value)), (node.meta["val"].dtype, builder.sizes_of(node.meta["val"]))
    if found[0] is not want[0] or not same_sizes(found[1], want[1]):
        raise InternalError(f"{node.name} = {operator_name(node.target)} was lowered to {found}, want {want}")


def _value(argument: Any, values: dict[fx.Node, Any]) -> Any:
    if isinstance(argument, fx.Node):
        return values[argument]
    if isinstance(argument, (list, tuple)):
        return [_value(a, values) for a in argument]
    return argument
