"""What tests of passes and targets need: a program from a plain function, and one pass run with its promise checked."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch

from edgecc.ir.capture import Dims, trace
from edgecc.ir.ops import operator_name
from edgecc.ir.program import Program
from edgecc.pipeline.base import Pass
from edgecc.pipeline.context import PassContext


def _module(function: Callable[..., Any]) -> torch.nn.Module:
    """A module whose forward is a function, so that the function's parameters name the inputs."""

    def forward(self: torch.nn.Module, *inputs: Any) -> Any:
        return function(*inputs)

    own = [inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
    forward.__signature__ = inspect.Signature([*own, *inspect.signature(function).parameters.values()])  # type: ignore[attr-defined]
    kind = type("Function", (torch.nn.Module,), {"forward": forward})
    module: torch.nn.Module = kind()
    return module


def trace_function(function: Callable[..., Any] | torch.nn.Module, *inputs: Any, dims: Dims | None = None) -> Program:
    """Trace a function of tensors, or a module, at example inputs."""
    return trace(function if isinstance(function, torch.nn.Module) else _module(function), inputs, dims=dims)


def operators(program: Program) -> list[str]:
    """Names of the calls in graph order, such as `aten.gelu`."""
    return [operator_name(n.target) for n in program.calls()]


def apply(pass_: Pass, program: Program) -> tuple[int, PassContext]:
    """Run one pass in place with its remarks collected, drop what it left unused, and return its count and context."""
    context = PassContext(samples=(program.examples,), origin=pass_.name)
    count = pass_.run(program, context)
    program.drop_unused_weights()
    program.graph.lint()
    program.recompile()
    return count, context
