"""Epilogues: what happens to the sums of a tile on the way to memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgecc.targets.tvm_cpu.schedules.code import Buffer, Expr, index
from edgecc.targets.tvm_cpu.schedules.stage import Kernel, Stage, loads, reads, replace, shape, variables

# functions of many instructions: code for them is written once a row, not once a register
_COSTLY = frozenset(
    "tirx." + n for n in ("exp", "erf", "gelu", "tanh", "sigmoid", "log", "log1p", "expm1", "pow", "sin", "cos", "rsqrt", "sqrt")
)


@dataclass(frozen=True)
class Epilogue:
    """The outputs of a fused function in terms of the sums of one stage.

    `sums`: the buffer that the tile stands for: the stage's own, or that of the stage that adds `seed` to it, where
    the sums start from `seed` instead of 0. `seed`: a load that depends on the column alone.
    """

    kernel: Kernel
    sums: Stage
    seed: Any | None

    def values(self, where: Mapping[Any, Expr], tile: Expr) -> list[tuple[Buffer, list[Expr], Expr]]:
        """For each output: where the element is stored, and its value from the tile's element.

        `where`: the position along each axis of `sums`.
        """
        import tvm
        import tvm_ffi

        position = [where[a.var] for a in self.sums.axes]
        keep = self.sums.buffer
        found = []
        for output in self.kernel.outputs:
            value = self.kernel.element(output, position, lambda b: b.same_as(keep))
            put = tvm_ffi.structural_map(value, (tvm.ir.TensorLoad, lambda x: tile if x.source.same_as(keep) else x))
            found.append((output, position, put))
        return found

    def operands(self) -> list[Buffer]:
        """The buffers that the outputs and the seed read beside the sums, once each."""
        found: list[Buffer] = []
        for output in self.kernel.outputs:
            stage = self.kernel.stage_of(output)
            if stage is not None and stage is not self.sums:
                found += reads(self._of(output, stage))
        if self.seed is not None:
            found.append(self.seed.source)
        unique = [b for number, b in enumerate(found) if not any(b.same_as(other) for other in found[:number])]
        return [b for b in unique if not b.same_as(self.sums.buffer)]

    def in_place(self, operands: Sequence[Buffer]) -> list[int]:
        """Which operands the first output may overlap: they are read at the element that is written, and nowhere else."""
        output = self.kernel.outputs[0]
        stage = self.kernel.stage_of(output)
        if stage is None or stage is self.sums or len(self.kernel.outputs) > 1:  # another output may still read it
            return []
        place = [a.var for a in stage.axes]
        value = self._of(output, stage)
        found = []
        for number, buffer in enumerate(operands):
            where = [x for x in loads(value) if x.source.same_as(buffer)]
            here = all(len(x.indices) == len(place) and all(i.same_as(v) for i, v in zip(x.indices, place, strict=True)) for x in where)
            if where and here and _alike(buffer, output):
                found.append(number)
        return found

    def _of(self, output: Buffer, stage: Stage) -> Expr:
        """An element of an output over the sums, at the axes of its stage."""
        return self.kernel.element(output, [a.var for a in stage.axes], lambda b: b.same_as(self.sums.buffer))

    @property
    def is_costly(self) -> bool:
        import tvm
        import tvm_ffi
        from tvm import tirx

        found: list[Any] = []

        def see(call: Any) -> None:
            if getattr(call.op, "name", "") in _COSTLY or "extern" in getattr(call.op, "name", ""):
                found.append(call)

        for output in self.kernel.outputs:
            stage = self.kernel.stage_of(output)
            if stage is None or stage is self.sums:
                continue
            value = self._of(output, stage)
            tvm_ffi.structural_walk(value, (tvm.ir.Call, see), order="post")
            tvm_ffi.structural_walk(value, (tirx.Div, found.append), order="post")
        return bool(found)


def epilogue_of(kernel: Kernel, stage: Stage, column: Any) -> Epilogue | None:
    """The epilogue after a contraction; None where an output is not elementwise in its sums."""
    others = [s for s in kernel.stages if s.is_reduction and s is not stage]
    if others or not all(_pointwise(kernel, output, stage) for output in kernel.outputs):
        return None
    readers = kernel.readers(stage.buffer)
    if len(readers) == 1 and not kernel.is_output(stage.buffer):
        seed = _added(kernel, readers[0], stage, column)
        if seed is not None and all(_pointwise(kernel, output, readers[0]) for output in kernel.outputs):
            return Epilogue(kernel, readers[0], seed)
    return Epilogue(kernel, stage, None)


def _pointwise(kernel: Kernel, output: Buffer, stage: Stage) -> bool:
    """Whether an element of the output needs the element of the stage at the same place, and no other."""
    made = kernel.stage_of(output)
    if made is stage:
        return True
    if made is None or made.is_reduction or len(made.axes) != len(stage.axes):
        return False
    if any(not _same(a.extent, b.extent) for a, b in zip(made.axes, stage.axes, strict=True)):
        return False
    place = [a.var for a in made.axes]
    value = kernel.element(output, place, lambda b: b.same_as(stage.buffer))
    found = [load for load in loads(value) if load.source.same_as(stage.buffer)]
    return bool(found) and all(_at(load, place, stage) for load in found)


def _at(load: Any, place: Sequence[Any], stage: Stage) -> bool:
    return all(i.same_as(v) or (a.extent == 1) for i, v, a in zip(load.indices, place, stage.axes, strict=True))


def _alike(a: Buffer, b: Buffer) -> bool:
    same_rank = len(shape(a)) == len(shape(b))
    return str(a.ty.dtype) == str(b.ty.dtype) and same_rank and all(_same(x, y) for x, y in zip(shape(a), shape(b), strict=True))


def _same(a: Any, b: Any) -> bool:
    from edgecc.targets.tvm_cpu.schedules.access import equal

    return equal(a, b)


def _added(kernel: Kernel, reader: Stage, stage: Stage, column: Any) -> Any | None:
    """What a stage adds to the sums, where that is a load that depends on the column alone: in the reader's axes."""
    from tvm import tirx

    if reader.is_reduction or not isinstance(reader.update, tirx.Add) or len(reader.axes) != len(stage.axes):
        return None
    last = reader.axes[stage.axes.index(next(a for a in stage.axes if a.var.same_as(column)))].var if _has(stage, column) else None
    for itself, other in ((reader.update.a, reader.update.b), (reader.update.b, reader.update.a)):
        if last is None or not _loads(itself, stage.buffer) or not _at(itself, [a.var for a in reader.axes], stage):
            continue
        added = replace(kernel.inline(other), {a.var: index(0) for a in reader.axes if a.extent == 1 and not a.var.same_as(last)})
        if _loads(added) and kernel.stage_of(added.source) is None and all(v.same_as(last) for v in variables(added)):
            return added
    return None


def _has(stage: Stage, column: Any) -> bool:
    return any(a.var.same_as(column) for a in stage.axes)


def _loads(value: Expr, buffer: Buffer | None = None) -> bool:
    import tvm

    return isinstance(value, tvm.ir.TensorLoad) and (buffer is None or value.source.same_as(buffer))


def seed_value(epilogue: Epilogue, column: Expr) -> Expr:
    """The value that the sums of a column start from."""
    from tvm import tirx

    if epilogue.seed is None:
        return tirx.const(0, str(epilogue.sums.buffer.ty.dtype))
    return replace(epilogue.seed, {v: index(column) for v in variables(epilogue.seed)})
