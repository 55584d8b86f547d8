"""Operands: the kernels that bring the operands of a product into the form that its tiles read, before the product itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from edgecc.targets.tvm_cpu.schedules.access import linear
from edgecc.targets.tvm_cpu.schedules.code import Buffer, Code, Expr
from edgecc.targets.tvm_cpu.schedules.contraction import Operand
from edgecc.targets.tvm_cpu.schedules.core import Core
from edgecc.targets.tvm_cpu.schedules.plan import Operand as Source
from edgecc.targets.tvm_cpu.schedules.plan import Pack, Packed, Param, Step, Temp, kernel_function
from edgecc.targets.tvm_cpu.schedules.pointwise import pointwise
from edgecc.targets.tvm_cpu.schedules.stage import Axis, Kernel, Stage, reads, shape


class Operands:
    """`steps`: the kernels so far. A buffer that one of them made is known to `source`, as the parameters are."""

    def __init__(self, kernel: Kernel, core: Core) -> None:
        self.kernel, self.core = kernel, core
        self.steps: list[Step] = []
        self._sources: list[tuple[Buffer, Source]] = [(p, Param(i)) for i, p in enumerate(kernel.params)]

    def source(self, buffer: Buffer) -> Source:
        return next(s for b, s in self._sources if b.same_as(buffer))

    def materialized(self, operand: Operand, convert: Callable[[Expr], Expr] | None = None) -> Operand:
        """The operand in memory, each element converted: a kernel makes it where it is not there yet."""
        source = operand.load.source
        stage = self.kernel.stage_of(source)
        if stage is None and convert is None:
            return operand
        made = ancestors(self.kernel, stage) if stage is not None else []
        if convert is not None:
            stage = _converted(source, convert)
            made = [*made, stage]
        assert stage is not None
        target = stage.buffer
        inputs = [p for p in self.kernel.params if not self.kernel.is_output(p) and any(reads_from(s, p) for s in made)]
        part = Kernel(f"{self.kernel.name}_{source.name}", [*inputs, target], [target], made, self.kernel.sizes)
        plan = pointwise(part, self.core, frozenset())
        if plan is None:
            raise ValueError(f"{source.name} cannot be made by itself")
        offset = len(self.steps)
        for step in plan.steps:
            self.steps.append(replace(step, reads=[self._outer(part, r, offset) for r in step.reads], outputs=(), in_place=()))
        self._sources.append((target, Temp(len(self.steps) - 1)))
        if convert is None:
            return operand
        load = target[tuple(operand.load.indices)]
        place = linear(load, list(operand.place.strides))
        assert place is not None, "it was linear in the buffer of the same shape"
        return Operand(load, place)

    def packed(self, source: Buffer, made: Buffer, pack: Pack) -> None:
        """`made` is a constant parameter in another layout."""
        number = next(i for i, p in enumerate(self.kernel.params) if p.same_as(source))
        self._sources.append((made, Packed(number, pack)))

    def add(self, side: str, source: Buffer, made: Buffer, code: Code) -> None:
        """A kernel that makes one buffer from another."""
        function = kernel_function([source, made], self.kernel.sizes, code)
        self.steps.append(Step(f"{self.kernel.name}_{side}", [self.source(source)], [made], function))
        self._sources.append((made, Temp(len(self.steps) - 1)))

    def _outer(self, part: Kernel, source: Source, offset: int) -> Source:
        if isinstance(source, Temp):
            return Temp(source.step + offset)
        return self.source(part.params[source.index])


def ancestors(kernel: Kernel, stage: Stage) -> list[Stage]:
    """The stages that a stage needs, and itself, in order."""
    needed = [stage]
    for candidate in reversed(kernel.stages[: kernel.stages.index(stage)]):
        if any(reads_from(s, candidate.buffer) for s in needed):
            needed.insert(0, candidate)
    return needed


def reads_from(stage: Stage, buffer: Buffer) -> bool:
    return any(b.same_as(buffer) for b in reads(stage.update))


def _converted(source: Buffer, convert: Callable[[Expr], Expr]) -> Stage:
    """The stage that converts every element of a buffer."""
    from tvm import tirx

    axes = tuple(Axis(tirx.Var(f"i{k}", "int64"), size) for k, size in enumerate(shape(source)))
    value = convert(source[tuple(a.var for a in axes)])
    made: Any = tirx.decl_buffer(list(source.ty.shape), str(value.ty.dtype), f"{source.name}_as")
    return Stage(made, axes, (), None, value)
