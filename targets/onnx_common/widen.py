"""Widen: nodes of half precision computed in float32, between a Cast of each operand and a Cast of each result.

Which nodes: those that ONNX has not in half precision at an opset, when a program of half precision is lowered; all of them,
when a runtime without half kernels shall round every result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def widen_missing(model: Any) -> int:
    """Widen, in place, the nodes whose types the operator's schema does not have; how many."""
    import onnx_ir as ir

    opset, widened = model.graph.opset_imports[""], 0
    for half in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16):
        nodes = [n for n in model.graph if not _is_in_schema(n, opset, half)]
        widen(model.graph, nodes, half)
        widened += len(nodes)
    return widened


def _is_in_schema(node: Any, opset: int, half: Any) -> bool:
    import onnx

    if node.domain not in ("", "ai.onnx") or node.op_type == "Cast":
        return True
    schema, wanted = onnx.defs.get_schema(node.op_type, opset), f"tensor({half.name.lower()})"
    ends = [(schema.inputs, node.inputs), (schema.outputs, node.outputs)]
    ports = [(formals[min(k, len(formals) - 1)], v) for formals, values in ends for k, v in enumerate(values)]
    return all(wanted in formal.types for formal, v in ports if v is not None and v.dtype == half)


def widen(graph: Any, nodes: Sequence[Any], half: Any) -> None:
    """Compute these nodes, none of them a Cast, in float32."""
    import onnx_ir as ir

    for node in nodes:
        for operand in dict.fromkeys(v for v in node.inputs if v is not None and v.dtype == half):
            redirect([use for use in operand.uses() if use[0] is node], cast(graph, operand, ir.DataType.FLOAT, before=node))
        for value in [v for v in node.outputs if v.dtype == half]:
            users = list(value.uses())
            ends = [k for k, v in enumerate(graph.outputs) if v is value]
            value.type = ir.TensorType(ir.DataType.FLOAT)
            result = cast(graph, value, half)
            redirect(users, result)
            if ends:
                result.name, value.name = value.name, f"{value.name}/float"
            for k in ends:
                graph.outputs[k] = result


def redirect(uses: Any, value: Any) -> None:
    """Let these uses read the value."""
    for node, index in uses:
        node.replace_input_with(index, value)


def cast(graph: Any, value: Any, dtype: Any, *, before: Any = None) -> Any:
    """A Cast after the value, or before a node."""
    import onnx_ir as ir

    name = f"{value.name}/{dtype.name.lower()}{f'/{before.name}' if before is not None else ''}"
    made = ir.Node("", "Cast", [value], [ir.AttrInt64("to", int(dtype))], name=name)
    (result,) = made.outputs
    result.name, result.type, result.shape = name, ir.TensorType(dtype), value.shape
    if before is not None:
        graph.insert_before(before, made)
    else:
        graph.insert_after(value.producer(), made)
    return result
