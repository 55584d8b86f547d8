"""Cost: fusing takes time near linear in the length of the program, and long chains do not overflow the stack."""

from __future__ import annotations

import math
import time

import pytest
import torch
from torch import Tensor, fx

from edgecc.ir.program import Program
from edgecc.passes.fuse_attention import FuseAttention
from edgecc.passes.fuse_gelu import FuseGelu
from edgecc.passes.fuse_hard_swish import FuseHardSwish
from edgecc.passes.fuse_layer_norm import FuseLayerNorm
from edgecc.passes.fuse_rms_norm import FuseRmsNorm
from edgecc.passes.fuse_silu import FuseSilu
from edgecc.rewrite.expression import Sum
from edgecc.rewrite.normal_form import NormalForm
from edgecc.rewrite.reading import LARGEST
from edgecc.testing import apply, trace_function
from tests.rewrite.fusing import normal

X = normal(2, 16)
PASSES = (FuseLayerNorm(), FuseRmsNorm(), FuseGelu(), FuseSilu(), FuseHardSwish(), FuseAttention())


def block(x: Tensor) -> Tensor:
    """A residual block of 17 nodes: LayerNorm and GELU spelled out."""
    c = x - x.mean(-1, keepdim=True)
    h = c / torch.sqrt((c * c).mean(-1, keepdim=True) + 1e-5) * 1.5 + 0.5
    return x + 0.5 * h * (1 + torch.erf(h / math.sqrt(2))) + x.relu()


def chained(program: Program, times: int) -> Program:
    """Repeat the body of a program of one input and one output, each copy on the result of the one before."""
    graph = program.graph
    body = program.calls()
    (source,), (last,) = program.inputs(), program.outputs()
    before, result = graph.output_node(), last
    for _ in range(times - 1):
        values: dict[fx.Node, fx.Node] = {source: result}
        with graph.inserting_before(before):
            for node in body:
                values[node] = graph.node_copy(node, lambda n, values=values: values.get(n, n))
        result = values[last]
    before.args = ((result,),)
    program.recompile()
    return program


def seconds(times: int) -> float:
    program = chained(trace_function(block, X), times)
    start = time.process_time()
    counts = [apply(p, program)[0] for p in PASSES]
    assert counts == [times, 0, times, 0, 0, 0]
    return time.process_time() - start


def test_a_chain_of_ten_thousand_nodes_is_read_without_recursion() -> None:
    program = chained(trace_function(lambda x: (x + 1).exp(), X), 5000)
    form = NormalForm(program.weight)
    assert form.view(program.outputs()[0]).term.kind == "exp"  # type: ignore[union-attr]


def test_a_long_sum_is_cut_into_pieces_instead_of_growing() -> None:
    def function(x: Tensor) -> Tensor:
        y = x
        for i in range(30):
            y = y + x.roll(i + 1)
        return y

    program = trace_function(function, X)
    form = NormalForm(program.weight)
    terms = [form.view(n).term for n in program.calls(torch.ops.aten.add.Tensor)]
    assert all(isinstance(t, Sum) and len(t.terms) <= LARGEST for t in terms)


@pytest.mark.slow
def test_time_grows_no_faster_than_the_program() -> None:
    seconds(10)  # traces the patterns
    small, large = seconds(60), seconds(600)  # 1,000 and 10,000 nodes
    assert large < 20 * small  # n log n is 13; the rest is noise of the clock
    assert large < 40  # tens of times what it takes on one idle core
