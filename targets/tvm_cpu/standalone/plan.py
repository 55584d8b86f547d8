"""Plan: a place in the arena for every intermediate tensor.

Two tensors that are never alive at the same step may share memory. They are placed one after another, each at the lowest
offset that is free while it lives: once the largest first, once those of the step with the most bytes alive first, and
the smaller arena counts (Pisarchyk and Lee 2020, arXiv:2001.03288, greedy by size and by breadth). The result of a kernel
that allows it takes the place of an operand that dies there. Dynamic sizes are planned at their upper bounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgecc.targets.tvm_cpu.standalone.kernels import ALIGNMENT
from edgecc.targets.tvm_cpu.standalone.program import Program, Step, Tensor


@dataclass(frozen=True)
class Plan:
    """Bytes: the arena, the most that is alive at one step (no plan is smaller), and all intermediate tensors together.

    `shared`: C names of the kernels whose result takes the place of an operand somewhere.
    """

    arena: int
    alive: int
    activations: int
    shared: frozenset[str]

    def facts(self) -> Mapping[str, int]:
        return {"arena_bytes": self.arena, "live_bytes": self.alive, "activation_bytes": self.activations}


@dataclass
class _Place:
    """Memory that one tensor after another has, each in the place of the one before."""

    tensors: list[Tensor]
    bytes: int
    first: int
    last: int


def plan(program: Program) -> Plan:
    """Set the offset of every tensor in the arena."""
    tensors = program.arena_tensors()
    places, shared = _places(tensors, program.steps)
    breadth = [sum(p.bytes for p in places if p.first <= step <= p.last) for step in range(len(program.steps))]
    by_size = sorted(places, key=lambda p: -p.bytes)
    by_breadth = sorted(by_size, key=lambda p: -max(breadth[p.first : p.last + 1]))
    offsets = min((_offsets(order) for order in (by_size, by_breadth)), key=lambda found: _end(places, found))
    for place in places:
        for tensor in place.tensors:
            tensor.offset = offsets[id(place)]
    return Plan(
        arena=_end(places, offsets), alive=max(breadth, default=0), activations=sum(t.upper for t in tensors), shared=frozenset(shared)
    )


def _places(tensors: Sequence[Tensor], steps: Sequence[Step]) -> tuple[list[_Place], set[str]]:
    of = {id(t): _Place([t], _aligned(t.upper), t.first, t.last) for t in tensors}
    shared = set()
    for number, step in enumerate(steps):
        operand = _replaced(step, number)
        if operand is None:
            continue
        result, place = step.buffers[-step.results], of[id(operand)]
        place.tensors.append(result)
        place.last = result.last
        of[id(result)] = place
        shared.add(step.kernel.name)
    return list({id(p): p for p in of.values()}.values()), shared


def _replaced(step: Step, number: int) -> Tensor | None:
    """The operand whose place the first result of a step takes, None where there is none."""
    result = step.buffers[-step.results]
    if result.kind != "arena":
        return None
    for index in step.kernel.in_place:
        operand = step.buffers[index]
        alone = sum(b is operand for b in step.buffers) == 1
        if operand.kind == "arena" and operand.last == number and alone and str(operand.bytes) == str(result.bytes):
            return operand
    return None


def _offsets(places: Sequence[_Place]) -> dict[int, int]:
    """The offset of each place by its id, for places in this order."""
    offsets: dict[int, int] = {}
    done: list[_Place] = []
    for place in places:
        offset = 0
        for other in sorted((p for p in done if p.first <= place.last and place.first <= p.last), key=lambda p: offsets[id(p)]):
            if offset + place.bytes <= offsets[id(other)]:
                break
            offset = max(offset, offsets[id(other)] + other.bytes)
        offsets[id(place)] = offset
        done.append(place)
    return offsets


def _end(places: Sequence[_Place], offsets: Mapping[int, int]) -> int:
    return max((offsets[id(p)] + p.bytes for p in places), default=0)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
