"""Textual IR and the node-level diff: golden texts."""

from __future__ import annotations

import torch
from torch import nn

from edgecc.ir.capture import trace
from edgecc.ir.diff import diff
from edgecc.ir.signature import Dim
from edgecc.ir.text import to_text
from edgecc.testing import trace_function

aten = torch.ops.aten


def test_one_line_a_node_with_names_of_dimensions_and_weights():
    program = trace(nn.Sequential(nn.Linear(4, 6), nn.GELU()), (torch.ones(3, 4),), dims={"input": {0: Dim("batch", 1, 8)}})
    assert to_text(program, source=False) == (
        "dim batch=1..8\n"
        "@0.weight : f32[6, 4]\n"
        "@0.bias : f32[6]\n"
        "%input_1 : f32[batch, 4] = input input\n"
        "%linear : f32[batch, 6] = aten.linear(%input_1, @0.weight, @0.bias)\n"
        "%gelu : f32[batch, 6] = aten.gelu(%linear)\n"
        "return output=%gelu\n"
    )


def test_lists_booleans_none_and_several_results():
    program = trace_function(lambda x: torch.max(x.permute(1, 0), 1, keepdim=True), torch.ones(2, 3))
    text = to_text(program)
    assert "aten.permute(%x, [1, 0])" in text
    assert "%max_1 : (f32[3, 1], i64[3, 1]) = aten.max.dim(%permute, 1, true)" in text
    assert "# testing.py:" in text  # the forward that calls the lambda
    assert text.endswith("return output_0=%getitem, output_1=%getitem_1\n")


def test_two_equal_programs_do_not_differ():
    program = trace_function(lambda x: x + 1, torch.ones(2))
    assert not diff(program, program.clone())


def test_a_changed_call_is_one_changed_line():
    before = trace_function(lambda x: torch.relu(x * 2), torch.ones(2))
    after = before.clone()
    after.replace_args(after.calls()[0], after.inputs()[0], 3)
    found = diff(before, after)
    assert str(found) == "- %mul : f32[2] = aten.mul.Tensor(%x, 2)\n+ %mul : f32[2] = aten.mul.Tensor(%x, 3)"


def test_added_removed_and_changed_weights_are_named():
    before = trace(nn.Linear(2, 2), (torch.ones(1, 2),))
    after = before.clone()
    after.set_weight(next(n for n in after.graph.nodes if n.target == "bias"), torch.full((2,), 7.0))
    output = after.graph.output_node()
    new = after.call_before(output, aten.relu.default, after.calls()[0])
    output.args = ((new,),)
    found = diff(before, after)
    assert found.added == ("%relu : f32[1, 2] = aten.relu(%linear)",)
    assert found.reweighted == ("bias",)
    assert [name for name, _, _ in found.changed] == ["return output"]
