"""Lower: a Program to one Relax function, call by call through the handler table."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from edgecc.errors import InternalError
from edgecc.ir.ops import operator_name
from edgecc.ir.program import Program
from edgecc.ir.provenance import describe
from edgecc.targeting.lowering import arguments_of
from edgecc.targets.tvm_cpu.lowering.builder import Builder, dtype_name
from edgecc.targets.tvm_cpu.lowering.table import handler


def lower(program: Program) -> Any:
    """Lower to a tvm.IRModule whose Relax function `main` takes the inputs in order and returns a tuple of all outputs.

    A dynamic size is a variable named after its symbol; bounds stand in the function's attributes
    `tir_var_upper_bound` and `tir_var_lower_bound`. Weights are constants. Nothing is scheduled yet.
    Raises InternalError, naming node and source line, where a call that was not refused cannot be lowered.
    """
    from tvm import relax

    builder = Builder(program)
    values: dict[fx.Node, Any] = {}
    for node in program.inputs():
        tensor = node.meta["val"]
        values[node] = relax.Var(node.name, relax.TensorType(builder.sizes.input_shape(tensor.shape), dtype_name(tensor.dtype)))
    with builder.block.function("main", list(values.values()), attrs=_bounds(program, builder)):
        with builder.block.dataflow():
            for node in program.graph.nodes:
                if node.op == "get_attr":
                    values[node] = builder.weight(node)
                elif node.op == "call_function":
                    values[node] = _call(builder, node, values)
            results = builder.block.emit_output(relax.Tuple([values[n] for n in program.outputs()]))
        builder.block.emit_func_output(results)
    return builder.block.get()


def _bounds(program: Program, builder: Builder) -> dict[str, dict[str, int]]:
    """Bounds by the names of the variables."""
    upper: dict[str, int] = {}
    lower: dict[str, int] = {}
    for dim in program.signature.dims:
        name, scale, offset = builder.sizes.variable(dim.symbol)
        lower[name] = dim.lower * scale + offset
        if dim.upper is not None:
            upper[name] = dim.upper * scale + offset
    return {"tir_var_upper_bound": upper, "tir_var_lower_bound": lower}


def _call(builder: Builder, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    named = arguments_of(node) if isinstance(node.target, torch._ops.OpOverload) else {}
    positional = () if named else node.args
    try:
        assert callable(node.target)
        return handler(node.target).lower(
            builder, node, *(_value(builder, a, values) for a in positional), **{k: _value(builder, a, values) for k, a in named.items()}
        )
    except Exception as error:  # TVM raises whatever it likes; the node is what a person needs to know
        place = describe(node) or "source unknown"
        raise InternalError(f"lowering {node.name} = {operator_name(node.target)} ({place}) failed: {error}") from error


def _value(builder: Builder, argument: Any, values: dict[fx.Node, Any]) -> Any:
    if isinstance(argument, fx.Node):
        return values[argument]
    if isinstance(argument, (list, tuple)):
        return [_value(builder, a, values) for a in argument]
    return argument
