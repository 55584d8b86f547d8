"""The memory plan: tensors that live at the same step never share memory, and a result takes the place of a dead operand."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import pytest

from edgecc.targets.tvm_cpu.standalone.kernels import Kernel
from edgecc.targets.tvm_cpu.standalone.plan import plan
from edgecc.targets.tvm_cpu.standalone.program import Program, Step, Tensor


def tensor(size: int, kind: str = "arena") -> Tensor:
    return Tensor(kind, size, size)


def program(calls: Sequence[tuple[Tensor, ...]], in_place: tuple[int, ...] = ()) -> Program:
    """Calls of a kernel whose last buffer is its result."""
    made = Program([])
    for number, buffers in enumerate(calls):
        for buffer in buffers:
            buffer.touch(number)
        made.steps.append(Step(Kernel(f"k{number}", None, (), 1, in_place=in_place), buffers, 1, (), 1))
    return made


def test_a_chain_needs_two_tensors_at_once() -> None:
    a, b, c, d = (tensor(1000) for _ in range(4))
    found = plan(program([(tensor(0, "input"), a), (a, b), (b, c), (c, d)]))
    assert (found.arena, found.alive, found.activations) == (2048, 2048, 4000)
    assert found.shared == frozenset()


def test_an_elementwise_result_takes_the_place_of_its_operand() -> None:
    a, b, c = tensor(1000), tensor(1000), tensor(1000)
    found = plan(program([(tensor(0, "input"), a), (a, b), (b, c)], in_place=(0,)))
    assert (found.arena, a.offset, b.offset, c.offset) == (1024, 0, 0, 0)
    assert found.shared == frozenset({"k1", "k2"})


def test_an_operand_that_is_read_again_keeps_its_place() -> None:
    a, b, c = tensor(1000), tensor(1000), tensor(1000)
    plan(program([(tensor(0, "input"), a), (a, b), (a, b, c)], in_place=(0,)))
    assert a.offset != b.offset


def test_an_operand_that_is_passed_twice_keeps_its_place() -> None:
    a, b = tensor(1000), tensor(1000)
    assert plan(program([(tensor(0, "input"), a), (a, a, b)], in_place=(0,))).shared == frozenset()


def test_a_result_of_another_size_and_an_output_of_the_model_are_not_placed_on_an_operand() -> None:
    a, b, out = tensor(1000), tensor(500), tensor(500, "output")
    assert plan(program([(tensor(0, "input"), a), (a, b), (b, out)], in_place=(0,))).shared == frozenset()


@pytest.mark.parametrize("seed", range(20))
def test_no_two_living_tensors_overlap_in_random_programs(seed: int) -> None:
    draw = random.Random(seed)
    made: list[Tensor] = [tensor(0, "input")]
    calls = []
    for _ in range(40):
        result = tensor(draw.choice([64, 100, 1000, 4096]))
        calls.append((*draw.sample(made[-6:], min(len(made[-6:]), 2)), result))
        made.append(result)
    done = program(calls, in_place=(0,))
    found = plan(done)
    assert found.alive <= found.arena <= sum(-(-t.upper // 64) * 64 for t in made)
    for one, other in itertools.combinations([t for t in made if t.kind == "arena"], 2):
        first, second = sorted((one, other), key=lambda t: t.first)
        together = one.first <= other.last and other.first <= one.last
        in_place = first.last == second.first and done.steps[second.first].kernel.name in found.shared and first.offset == second.offset
        if together and not in_place:
            assert one.offset + one.upper <= other.offset or other.offset + other.upper <= one.offset
