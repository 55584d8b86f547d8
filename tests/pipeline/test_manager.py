"""The manager and its instruments: order, blame, dumps, and what a bad pass of a user gets told."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from edgecc.errors import ContractError, InternalError
from edgecc.ir import archive
from edgecc.ir.capture import trace
from edgecc.pipeline import manager
from edgecc.pipeline.base import EXACT, Lossy, Pass
from edgecc.pipeline.context import PassContext
from edgecc.pipeline.instruments import Dump, StopAfter, VerifyNumerics, VerifyStructure
from edgecc.pipeline.spec import Phase, Pipeline

aten = torch.ops.aten


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        y = torch.relu(self.first(x))
        return self.second(y)


@dataclass(frozen=True)
class Scale(Pass):
    """Multiply the weight of the linear `which` by `factor`; claims to be exact."""

    name = "scale"
    numerics = EXACT
    which: int = 1
    factor: float = 1.0

    def run(self, program, context):
        node = program.calls(aten.linear.default)[self.which]
        program.set_weight(node.args[1], program.weight(node.args[1]) * self.factor)
        context.applied(node, f"scaled by {self.factor}")
        return 1


@dataclass(frozen=True)
class Nothing(Pass):
    name = "nothing"

    def run(self, program, context):
        return 0


@dataclass(frozen=True)
class Crash(Pass):
    name = "crash"

    def run(self, program, context):
        return [][0]


@dataclass(frozen=True)
class Mangle(Pass):
    name = "mangle"

    def run(self, program, context):
        program.calls()[0].meta.clear()
        return 1


@dataclass(frozen=True)
class Lose(Scale):
    name = "lose"
    numerics = Lossy(min_sqnr_db=20)


@pytest.fixture
def program():
    torch.manual_seed(0)
    return trace(Net(), (torch.randn(2, 4),))


def run(program, *passes, instruments=()):
    context = PassContext(samples=(program.examples,))
    return manager.run(Pipeline((Phase("fuse", passes),)), program, context, instruments), context


def test_passes_run_in_order_and_report_their_rewrites(program):
    steps, context = run(program, Nothing(), Scale(), instruments=[VerifyStructure(), VerifyNumerics()])
    assert [(s.index, s.phase, s.pass_.name, s.rewrites) for s in steps] == [(1, "fuse", "nothing", 0), (2, "fuse", "scale", 1)]
    assert [r.origin for r in context.remarks] == ["scale"]
    assert steps[1].facts["original"]["equal"] is True


def test_a_broken_promise_names_the_pass_the_node_and_the_line(program):
    with pytest.raises(ContractError) as caught:
        run(program, Scale(factor=1.0), Scale(factor=2.0), instruments=[VerifyNumerics()])
    assert "pass 'scale' promised Exact()" in caught.value.message
    assert "first node that differs: %linear_1 (second, test_manager.py:" in caught.value.message
    assert "--disable-pass scale" in caught.value.hint


def test_a_lossy_pass_may_lose_what_it_declared_and_no_more(program):
    steps, _ = run(program, Lose(factor=1.01), instruments=[VerifyNumerics()])
    assert 20 < steps[0].facts["previous"]["sqnr_db"] < 60
    with pytest.raises(ContractError, match="want at least 20 dB"):
        run(program, Lose(factor=1.5), instruments=[VerifyNumerics()])


def test_distances_to_the_original_add_up_over_passes(program):
    steps, _ = run(program, Lose(factor=1.02), Lose(factor=1.02), instruments=[VerifyNumerics()])
    assert steps[1].facts["original"]["max_abs"] > 1.5 * steps[1].facts["previous"]["max_abs"]


def test_a_crash_of_a_pass_is_named(program):
    with pytest.raises(InternalError, match="pass 'crash' failed: IndexError"):
        run(program, Crash())


def test_a_malformed_program_is_blamed_on_its_pass(program):
    with pytest.raises(InternalError, match=r"pass 'mangle' broke the program: .*\n.*has no fake value"):
        run(program, Mangle(), instruments=[VerifyStructure()])


def test_the_pipeline_stops_after_the_named_pass(program):
    steps, _ = run(program, Nothing(), Scale(), Nothing(), instruments=[StopAfter("scale")])
    assert [s.pass_.name for s in steps] == ["nothing", "scale"]


def test_dumps_are_written_only_for_passes_that_changed_something(program, tmp_path):
    run(program, Nothing(), Scale(factor=3.0), instruments=[Dump(tmp_path)])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["00-trace.ir", "00-trace.pt2", "02-scale.ir", "02-scale.pt2"]
    assert (tmp_path / "02-scale.ir").read_text().startswith("# 02-scale.pt2\n@")
    x = torch.randn(2, 4)
    assert torch.equal(archive.load(tmp_path / "02-scale.pt2")(x)[0], program(x)[0])


def test_a_dump_can_be_limited_to_a_pass_and_printed(program):
    printed = []
    run(program, Scale(), Scale(), instruments=[Dump(text_to=printed.append, only=("scale",))])
    assert len(printed) == 2 and "aten.linear" in printed[0]
