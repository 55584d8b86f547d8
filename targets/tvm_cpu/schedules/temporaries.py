"""Temporaries: stages of a pointwise function that are stored, because computing them again costs more."""

from __future__ import annotations

from typing import Any

from edgecc.targets.tvm_cpu.schedules.code import Buffer
from edgecc.targets.tvm_cpu.schedules.stage import Kernel, Stage, loads, variables
from edgecc.targets.tvm_cpu.schedules.values import is_condition


def temporaries(kernel: Kernel) -> list[Buffer]:
    """Buffers, in order, whose elements are costly, and that are read several times each: broadcast, or from several places."""
    costly: list[Buffer] = []
    found: list[Buffer] = []
    for stage in kernel.stages:
        if not (_is_costly(stage) or any(_has(costly, x.source) for x in loads(stage.update))):
            continue
        if kernel.is_output(stage.buffer):
            continue
        if any(_repeats(reader, stage) for reader in kernel.readers(stage.buffer)):
            found.append(stage.buffer)
        else:
            costly.append(stage.buffer)
    return found


def _is_costly(stage: Stage) -> bool:
    import tvm
    import tvm_ffi

    found: list[Any] = []
    tvm_ffi.structural_walk(stage.update, (tvm.ir.Call, lambda c: None if is_condition(c) else found.append(c)))
    return bool(found)


def _repeats(reader: Stage, stage: Stage) -> bool:
    """Whether a stage reads one element of another for several of its own, or several elements for one."""
    import tvm_ffi

    places = [list(x.indices) for x in loads(reader.update) if x.source.same_as(stage.buffer)]
    if any(not all(tvm_ffi.structural_equal(a, b) for a, b in zip(places[0], p, strict=True)) for p in places[1:]):
        return True
    used = {v for i in places[0] for v in variables(i)}
    return any(a.extent != 1 and a.var not in used for a in reader.axes)


def _has(buffers: list[Buffer], buffer: Buffer) -> bool:
    return any(buffer.same_as(b) for b in buffers)
