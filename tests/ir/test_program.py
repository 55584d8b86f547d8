"""Program: writing to the graph keeps values, provenance and weights in step."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgecc.errors import InternalError
from edgecc.ir.capture import trace
from edgecc.ir.provenance import describe
from edgecc.ir.signature import Dim
from edgecc.ir.verify import verify
from edgecc.testing import operators, trace_function

aten = torch.ops.aten


@pytest.fixture
def program():
    torch.manual_seed(0)
    return trace(nn.Sequential(nn.Linear(4, 6), nn.ReLU()), (torch.randn(2, 4),))


def test_a_linear_is_split_in_two_as_a_low_rank_pass_does_it(program):
    x = torch.randn(2, 4)
    want = program(x)[0]
    node = program.calls(aten.linear.default)[0]
    u, s, v = torch.linalg.svd(program.weight(node.args[1]), full_matrices=False)
    thin = program.call_before(node, aten.linear.default, node.args[0], s[:, None] * v)
    program.replace_args(node, thin, u)
    program.drop_unused_weights()
    program.recompile()
    verify(program)
    assert operators(program) == ["aten.linear", "aten.linear", "aten.relu"]
    assert "0.weight" not in program.weights()
    assert describe(thin) == describe(node)
    torch.testing.assert_close(program(x)[0], want, atol=1e-5, rtol=0)  # 1e-5: full rank, so only float32 rounding


def test_a_new_call_has_symbolic_sizes():
    program = trace_function(lambda x: x + 1, torch.ones(3, 4), dims={"x": {0: Dim("n", 1, 8)}})
    node = program.calls()[0]
    new = program.call_before(node, aten.mul.Tensor, node.args[0], 2)
    assert str(new.meta["val"].shape[0]) == str(node.meta["val"].shape[0])


def test_replacing_a_node_erases_what_only_it_used(program):
    relu = program.calls(aten.relu.default)[0]
    program.replace(relu, program.inputs()[0])
    assert operators(program) == []
    assert program.drop_unused_weights() == ["0.weight", "0.bias"]


def test_a_taken_weight_name_gets_a_number(program):
    node = program.calls(aten.linear.default)[0]
    assert program.add_weight("0.weight", torch.zeros(2), node).target == "0.weight_1"


def test_a_new_weight_is_seen_by_every_user_of_a_tied_one():
    table = torch.randn(5, 4)
    program = trace_function(lambda i: nn.functional.embedding(i, table) @ table.T, torch.arange(3))
    node = next(n for n in program.graph.nodes if n.op == "get_attr")
    program.set_weight(node, torch.ones(5, 4))
    program.recompile()
    assert torch.equal(program(torch.arange(3))[0], torch.full((3, 5), 4.0))


def test_a_clone_has_its_own_weights_and_a_snapshot_shares_them(program):
    assert program.clone().stored("0.weight") is not program.stored("0.weight")
    assert program.snapshot().stored("0.weight") is program.stored("0.weight")


def test_changing_a_snapshot_leaves_the_program_alone(program):
    x = torch.randn(2, 4)
    want = program(x)[0]
    copy = program.snapshot()
    copy.retarget(copy.calls(aten.relu.default)[0], aten.neg.default, copy.calls(aten.linear.default)[0])
    copy.set_weight(next(n for n in copy.graph.nodes if n.op == "get_attr"), torch.zeros(6, 4))
    assert torch.equal(program(x)[0], want)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.calls()[0].meta.pop("val"), "has no fake value"),
        (lambda p: setattr(p.calls(aten.relu.default)[0], "target", aten.relu_.default), "writes in place"),
        (lambda p: setattr(p.calls(aten.relu.default)[0], "target", torch.relu), "not an ATen overload"),
        (lambda p: p.module.register_buffer("stray", torch.zeros(3)), "stray weight 'stray'"),
        (lambda p: p.module.get_submodule("0").register_parameter("bias", nn.Parameter(torch.zeros(7))), "its node says"),
    ],
)
def test_the_verifier_names_what_is_wrong(program, damage, message):
    verify(program)
    damage(program)
    with pytest.raises(InternalError, match=message):
        verify(program)
