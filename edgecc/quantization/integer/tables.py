"""Tables: pointwise operators between codes and codes, as the 256 results that they have."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from edgecc.ir.integer import CODES
from edgecc.ir.program import Program
from edgecc.quantization.integer.codes import Codes, activation

aten = torch.ops.aten

_POINTWISE = frozenset(
    """
    relu relu6 hardtanh leaky_relu elu celu selu gelu silu mish hardswish hardsigmoid sigmoid tanh softplus softsign log_sigmoid
    add sub rsub mul div pow neg abs sign exp expm1 log log1p sqrt rsqrt reciprocal square sin cos atan erf floor ceil round trunc
    clamp clamp_min clamp_max maximum minimum to _to_copy clone
    """.split()  # noqa: SIM905  as a list of quoted strings the names cannot be read
)


def table_of(program: Program, quantize: fx.Node) -> tuple[Codes, torch.Tensor] | None:
    """What a quantize node rounds as a function of the codes of one tensor: those, and the result for each code.

    None where something on the way is not pointwise, or reads another tensor.
    """
    values: dict[fx.Node, torch.Tensor] = {}
    found: list[Codes] = []

    def value(node: Any) -> Any:
        if not isinstance(node, fx.Node):
            return node
        if node in values:
            return values[node]
        codes = activation(program, node)
        if codes is not None:
            if program.is_weight(codes.node) or (found and found[0].node is not codes.node):
                raise _NotPointwiseError
            found.append(codes)
            low, high = CODES[codes.grid.dtype]
            every = torch.arange(low, high + 1).to(codes.grid.dtype)
            values[node] = node.target(every, *node.args[1:])  # type: ignore[operator]
        elif program.is_weight(node) and program.weight(node).numel() == 1:
            values[node] = program.weight(node).reshape(())
        elif node.op == "call_function" and str(node.target).split(".")[1] in _POINTWISE:
            arguments, keywords = fx.node.map_arg((node.args, node.kwargs), value)
            values[node] = node.target(*arguments, **keywords)  # type: ignore[operator]
        else:
            raise _NotPointwiseError
        return values[node]

    try:
        arguments: Any = fx.node.map_arg(quantize.args, value)
    except _NotPointwiseError:
        return None
    if not found or arguments[0].shape != (256,) or tuple(found[0].node.meta["val"].shape) != tuple(quantize.meta["val"].shape):
        return None
    return found[0], quantize.target(*arguments)  # type: ignore[operator]


class _NotPointwiseError(Exception):
    """Something that a table cannot hold."""
