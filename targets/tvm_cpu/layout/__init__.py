"""Layouts: how the tensors of a program lie in memory, so that kernels read and write along their vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgecc.targets.tvm_cpu.layout.apply import apply
from edgecc.targets.tvm_cpu.layout.plan import Copy, Plan, plan

if TYPE_CHECKING:
    import tvm

__all__ = ["Copy", "Plan", "apply", "assign_layouts", "plan"]


def assign_layouts(module: tvm.IRModule) -> tvm.IRModule:
    """A legalized module of the same results, its tensors reordered for the kernels; inputs and outputs stay row-major.

    `plan(module).copies` are the tensors that it copies from one order into another, and why.
    """
    return apply(module, plan(module))
