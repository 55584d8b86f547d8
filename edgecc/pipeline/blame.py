"""Blame: the first node whose value changed under a pass that broke its promise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import fx

from edgecc.diagnostics import Remarks
from edgecc.ir.program import Program
from edgecc.ir.provenance import describe
from edgecc.pipeline.base import Numerics, Pass
from edgecc.pipeline.context import PassContext, Sample
from edgecc.pipeline.numerics import distance


def first_difference(first: Program, done: Sequence[Pass], after: Program, context: PassContext, promise: Numerics) -> str:
    """Say which node is the first whose value breaks `promise`.

    The program before the pass is made again from `first` by the passes `done` that changed it, so that a run
    without failures need not keep it. Nodes are matched by name; `after` may have new ones in between.
    """
    before = first.snapshot()
    for pass_ in done:
        pass_.run(before, replace(context, remarks=Remarks(), facts={}))
        before.drop_unused_weights()
    for sample in context.samples:
        want, got = values(before, sample), values(after, sample)
        for node in after.calls():
            if node.name in want and distance((want[node.name],), (got[node.name],)).broken(promise):
                return f"first node that differs: %{node.name} ({describe(node) or 'no source line'}): {distance((want[node.name],), (got[node.name],)).broken(promise)}"
    return "no inner node differs: see the outputs"


def values(program: Program, sample: Sample) -> dict[str, torch.Tensor]:
    """The value of every tensor node of a program at one sample, by node name."""
    found: dict[str, torch.Tensor] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> object:
            value = super().run_node(n)
            if isinstance(value, torch.Tensor):
                found[n.name] = value
            return value

    with torch.no_grad():
        Recorder(program.module).run(*sample)
    return found
