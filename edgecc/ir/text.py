"""Textual IR: one line a node, for people and for golden tests. Names are stable, so a one-op change is a one-line diff."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from edgecc.ir.dtypes import dtype_name
from edgecc.ir.fake import size_text
from edgecc.ir.ops import operator_name
from edgecc.ir.program import Program
from edgecc.ir.provenance import describe


def to_text(program: Program, *, source: bool = True) -> str:
    """The program as text.

    `%fc1 : f32[2, 16] = aten.linear(%x, @fc1.weight, @fc1.bias)    # encoder.mlp, model.py:8`. A size that is dynamic
    stands by its name. `source` adds the comment with module path and line.
    """
    names = {d.symbol: d.name for d in program.signature.dims}
    lines = [f"dim {d}" for d in program.signature.dims]
    lines += [f"@{name} : {_tensor_type(tensor, names)}" for name, tensor in program.weights().items()]
    inputs = {node: spec.name for node, spec in zip(program.inputs(), program.signature.inputs, strict=True)}
    for node in program.graph.nodes:
        if node.op in ("get_attr", "output"):
            continue
        right = f"input {inputs[node]}" if node in inputs else call_text(node)
        comment = describe(node) if source and node.op == "call_function" else ""
        lines.append(f"%{node.name} : {value_type(node.meta.get('val'), names)} = {right}" + (f"    # {comment}" if comment else ""))
    results = zip(program.signature.outputs, program.outputs(), strict=True)
    lines.append("return " + ", ".join(f"{spec.name}={_argument(node)}" for spec, node in results))
    return "\n".join(lines) + "\n"


def call_text(node: fx.Node) -> str:
    """`aten.linear(%x, @fc1.weight, @fc1.bias)`."""
    arguments = [_argument(a) for a in node.args] + [f"{k}={_argument(v)}" for k, v in node.kwargs.items()]
    return f"{operator_name(node.target)}({', '.join(arguments)})"


def value_type(value: Any, names: dict[str, str]) -> str:
    """`f32[batch, 16]` for a tensor, a bracketed list for several, `int` for a size."""
    if isinstance(value, torch.Tensor):
        return _tensor_type(value, names)
    if isinstance(value, (list, tuple)):
        return "(" + ", ".join(value_type(v, names) for v in value) + ")"
    if isinstance(value, (torch.SymInt, int)):
        return f"int {size_text(value, names)}"
    return "none" if value is None else type(value).__name__


def _tensor_type(value: torch.Tensor, names: dict[str, str]) -> str:
    return f"{dtype_name(value.dtype)}[{', '.join(str(size_text(s, names)) for s in value.shape)}]"


def _argument(value: Any) -> str:
    if isinstance(value, fx.Node):
        return f"@{value.target}" if value.op == "get_attr" else f"%{value.name}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_argument, value)) + "]"
    if isinstance(value, torch.dtype):
        return dtype_name(value)
    if isinstance(value, (torch.device, torch.layout, torch.memory_format)):
        return str(value).removeprefix("torch.")
    return repr(value) if not isinstance(value, bool) and value is not None else {True: "true", False: "false", None: "none"}[value]
