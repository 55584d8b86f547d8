"""What tests of fusions share: fuse a plain function and check everything that every fusion promises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from edgecc.ir import provenance
from edgecc.ir.capture import Dims
from edgecc.ir.program import Program
from edgecc.pipeline.base import Pass
from edgecc.pipeline.context import PassContext
from edgecc.testing import apply, trace_function

# float32 carries 1.2e-7 relative; values here are below 10 and a formula rounds a dozen times.
TOLERANCE = 1e-5


def fused(pass_: Pass, function: Callable[..., Any], *inputs: torch.Tensor, dims: Dims | None = None) -> tuple[Program, int, PassContext]:
    """Trace, fuse, and return the program, the count and the context.

    Checks against PyTorch eager, that a second run finds nothing, and that every call keeps a source line and a value.
    """
    program = trace_function(function, *inputs, dims=dims)
    has_source = all(provenance.source_line(n) for n in program.calls())
    count, context = apply(pass_, program)
    wanted = function(*inputs)
    for got, want in zip(program(*inputs), wanted if isinstance(wanted, tuple) else (wanted,), strict=True):
        torch.testing.assert_close(got, want, atol=TOLERANCE, rtol=TOLERANCE, equal_nan=True)
    assert apply(pass_, program)[0] == 0
    assert all("val" in n.meta for n in program.graph.nodes if n.op != "output")
    assert not has_source or all(provenance.source_line(n) for n in program.calls())
    return program, count, context


def reasons(context: PassContext) -> list[str]:
    """What was missed, and why."""
    return [r.message for r in context.remarks if r.kind == "missed"]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
