"""Partition: one fused function as several kernels with temporaries between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgecc.targets.tvm_cpu.schedules.code import Buffer
from edgecc.targets.tvm_cpu.schedules.plan import Operand, Packed, Param, Plan, Step, Temp
from edgecc.targets.tvm_cpu.schedules.stage import Kernel, Stage, reads


def split(kernel: Kernel, at: Sequence[Buffer]) -> list[Kernel]:
    """One kernel for each buffer of `at`, in the order of the stages, and a last one for the outputs that remain.

    A kernel reads what earlier ones made as a parameter, and has every stage between that and what it makes.
    """
    cut = [s.buffer for s in kernel.stages if _has(at, s.buffer)]
    rest = [o for o in kernel.outputs if not _has(cut, o)]
    pieces = [piece(kernel, [buffer], cut[:number], f"{kernel.name}_{buffer.name}") for number, buffer in enumerate(cut)]
    return [*pieces, piece(kernel, rest, cut, kernel.name)] if rest else pieces


def piece(kernel: Kernel, targets: Sequence[Buffer], made: Sequence[Buffer], name: str) -> Kernel:
    """The kernel that computes `targets` where the buffers `made` are there already."""
    needed: list[Stage] = []
    wanted = list(targets)
    for stage in reversed(kernel.stages):
        if _has(wanted, stage.buffer) and not (_has(made, stage.buffer) and not _has(targets, stage.buffer)):
            needed.insert(0, stage)
            wanted += reads(stage.update)
    own = [s.buffer for s in needed]
    inputs = [b for b in [*kernel.params, *made] if _has(wanted, b) and not _has(own, b)]
    unique = [b for number, b in enumerate(inputs) if not _has(inputs[:number], b)]
    return Kernel(name, [*unique, *targets], list(targets), needed, kernel.sizes)


def plan_pieces(kernel: Kernel, pieces: Sequence[Kernel], plan: Callable[[Kernel], Plan]) -> Plan:
    """The plan of a function from the plans of its pieces, in order."""
    steps: list[Step] = []
    rules: list[str] = []
    place: list[tuple[Buffer, Operand]] = [(p, Param(i)) for i, p in enumerate(kernel.params) if not kernel.is_output(p)]
    for part in pieces:
        planned, first = plan(part), len(steps)
        rules.append(planned.rule)
        inputs = [next((o for b, o in reversed(place) if b.same_as(p)), None) for p in part.params]
        for step in planned.steps:
            made = [part.outputs[k] for k in step.outputs]
            outputs = [_number(kernel.outputs, b) for b in made if kernel.is_output(b)]
            sources = [_operand(o, inputs, first) for o in step.reads]
            in_place = [i for i in step.in_place if _may_overlap(sources[i], sources, pieces, part, place)]
            place += [(b, Temp(len(steps))) for b in made]
            steps.append(Step(step.name, sources, step.writes, step.function, outputs, in_place))
    return Plan("; ".join(rules), steps)


def _operand(operand: Operand, inputs: Sequence[Operand | None], first: int) -> Operand:
    if isinstance(operand, Temp):
        return Temp(first + operand.step)
    source = inputs[operand.index]
    assert source is not None, "a kernel reads its own output"
    if isinstance(operand, Param):
        return source
    assert isinstance(source, Param), "a constant is a parameter of the function"
    return Packed(source.index, operand.pack)


def _may_overlap(
    operand: Operand, sources: Sequence[Operand], pieces: Sequence[Kernel], part: Kernel, place: Sequence[tuple[Buffer, Operand]]
) -> bool:
    """Whether no later kernel reads the operand, and this one does so once."""
    later = pieces[list(pieces).index(part) + 1 :]
    buffers = [b for b, o in place if o == operand]
    return sum(o == operand for o in sources) == 1 and not any(_has(k.params, b) for k in later for b in buffers)


def _number(buffers: Sequence[Buffer], buffer: Buffer) -> int:
    return next(i for i, b in enumerate(buffers) if b.same_as(buffer))


def _has(buffers: Sequence[Buffer], buffer: Buffer) -> bool:
    return any(buffer.same_as(b) for b in buffers)
