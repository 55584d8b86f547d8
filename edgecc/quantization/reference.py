"""Reference: the integer program in PyTorch, operator by operator, as every build of it must compute.

The operators of `edgecc.ir.integer` are integer arithmetic in PyTorch, so running the program is running the reference;
here it is run step by step, so that what an artifact gives can be compared at any of them, and every step is checked to be
made of integers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from edgecc.ir.integer import is_integer
from edgecc.ir.program import Program


@dataclass(frozen=True)
class Run:
    """`outputs` in the order of the signature. `codes`: what each integer call gave, by the name of its node."""

    outputs: tuple[torch.Tensor, ...]
    codes: Mapping[str, torch.Tensor]


def run(program: Program, inputs: Sequence[torch.Tensor]) -> Run:
    """Run a program that `lower-quantized` made, one input for each of its signature.

    Raises TypeError where an integer operator is given, or gives, floating point.
    """
    interpreter = _Interpreter(program.module)
    with torch.no_grad():
        outputs = interpreter.run(*inputs)
    return Run(tuple(outputs), interpreter.codes)


def islands(program: Program) -> list[fx.Node]:
    """The calls that compute in floating point: none but quantize and dequantize nodes in an all-integer program."""
    found = []
    for node in program.calls():
        value = node.meta.get("val")
        edges = isinstance(node.target, torch._ops.OpOverload) and node.target.namespace == "quantized_decomposed"
        if isinstance(value, torch.Tensor) and value.is_floating_point() and not edges:
            found.append(node)
    return found


def digest(outputs: Sequence[torch.Tensor]) -> str:
    """The sha256 of outputs, dtypes and sizes included."""
    total = hashlib.sha256()
    for tensor in outputs:
        total.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        total.update(tensor.contiguous().numpy().tobytes())
    return total.hexdigest()


class _Interpreter(fx.Interpreter):
    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.codes: dict[str, torch.Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if not is_integer(n):
            return value
        given = [v for v in self.fetch_args_kwargs_from_env(n)[0] if isinstance(v, torch.Tensor)]
        if any(v.is_floating_point() for v in (*given, value)):
            raise TypeError(f"{n.name} computes in floating point")
        self.codes[n.name] = value
        return value
