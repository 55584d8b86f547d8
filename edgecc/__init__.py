"""edgecc: turn a PyTorch model into a small, fast, verified artifact for an edge device.

The names below are the whole public API; they are imported when they are first used, so that `edgecc --help` does
not wait for PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgecc import testing
    from edgecc.api import compile, load, runners, trace
    from edgecc.compiler import CompileResult
    from edgecc.errors import EdgeccError
    from edgecc.ir.program import Program
    from edgecc.ir.signature import Dim
    from edgecc.options import CompileOptions
    from edgecc.pipeline.base import EXACT, REORDERED, Lossy, Pass
    from edgecc.pipeline.context import PassContext
    from edgecc.pipeline.spec import Pipeline
    from edgecc.quantization.support import QuantSupport
    from edgecc.rewrite.rewrite_pass import RewritePass
    from edgecc.targeting.base import Capabilities, Lowered, Requirement, Runner, Target

__all__ = [
    "EXACT",
    "REORDERED",
    "Capabilities",
    "CompileOptions",
    "CompileResult",
    "Dim",
    "EdgeccError",
    "Lossy",
    "Lowered",
    "Pass",
    "PassContext",
    "Pipeline",
    "Program",
    "QuantSupport",
    "Requirement",
    "RewritePass",
    "Runner",
    "Target",
    "compile",
    "load",
    "runners",
    "testing",
    "trace",
]

_HOMES = {
    "edgecc.api": ("compile", "load", "runners", "trace"),
    "edgecc.compiler": ("CompileResult",),
    "edgecc.errors": ("EdgeccError",),
    "edgecc.ir.program": ("Program",),
    "edgecc.ir.signature": ("Dim",),
    "edgecc.options": ("CompileOptions",),
    "edgecc.pipeline.base": ("EXACT", "REORDERED", "Lossy", "Pass"),
    "edgecc.pipeline.context": ("PassContext",),
    "edgecc.pipeline.spec": ("Pipeline",),
    "edgecc.quantization.support": ("QuantSupport",),
    "edgecc.rewrite.rewrite_pass": ("RewritePass",),
    "edgecc.targeting.base": ("Capabilities", "Lowered", "Requirement", "Runner", "Target"),
}


def __getattr__(name: str) -> Any:
    if name == "testing":
        return import_module("edgecc.testing")
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'edgecc' has no attribute {name!r}")
