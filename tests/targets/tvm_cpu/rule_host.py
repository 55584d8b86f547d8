"""What tests of a schedule's rule share: run its plan on this machine, with guards around everything that it writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm import sym, te, tirx

from edgecc.targets.tvm_cpu.machines import host_machine
from edgecc.targets.tvm_cpu.schedules.core import CORES, Core
from edgecc.targets.tvm_cpu.schedules.module import free_sizes
from edgecc.targets.tvm_cpu.schedules.plan import Packed, Param, Plan, Step
from edgecc.targets.tvm_cpu.schedules.stage import Kernel, read

Array = np.ndarray[Any, Any]
Rule = Callable[[Kernel, Core, frozenset[int]], "Plan | None"]
CPUS = ["x86-64-v3", "x86-64-v4", "cortex-a72"]  # tiles for 16 and 32 registers of 8, 16 and 4 lanes; this machine runs them all
_GUARD = 64  # elements around each output that must stay as they were
_MARK = 113


def tensor(shape: Sequence[Any], dtype: str = "float32", name: str = "x") -> Any:
    """A te placeholder; a name in place of a size is a symbol."""
    return te.placeholder([tirx.const(s, "int64") if isinstance(s, int) else s for s in shape], dtype, name)


def symbol(name: str) -> Any:
    return tirx.Var(name, "int64")


def plan_of(inputs: Sequence[Any], outputs: Sequence[Any], rule: Rule, cpu: str, constants: Sequence[int] = ()) -> tuple[Kernel, Plan]:
    """The rule's plan for the function of te tensors."""
    kernel = read("kernel", te.create_prim_func([*inputs, *outputs]))
    plan = rule(kernel, CORES[cpu], frozenset(constants))
    assert plan is not None, "the rule does not take the function"
    return kernel, plan


def run(kernel: Kernel, plan: Plan, arrays: Sequence[Array]) -> list[Array]:
    """The outputs. Every input stays as it is, and nothing beside an output is written."""
    places = [i for i, p in enumerate(kernel.params) if not kernel.is_output(p)]
    given = dict(zip(places, arrays, strict=True))
    sizes = _sizes(kernel, given)
    made: list[list[Array]] = []
    results: dict[int, Array] = {}
    for step in plan.steps:
        reads = [
            _aligned(given[o.index] if isinstance(o, Param) else o.pack(given[o.index]) if isinstance(o, Packed) else made[o.step][0])
            for o in step.reads
        ]
        before = [r.copy() for r in reads]
        guarded, writes = zip(*[_guarded(b, sizes) for b in step.writes], strict=True)
        free = free_sizes(kernel, step)
        call = _compiled(step, free)
        call(*[tvm.runtime.from_dlpack(a) for a in (*reads, *writes)], *[sizes[v.name] for v in free])
        for r, b in zip(reads, before, strict=True):
            np.testing.assert_array_equal(r, b, "an input was written")
        for g in guarded:
            assert (np.concatenate([g[:_GUARD], g[-_GUARD:]]) == np.full(1, _MARK, g.dtype)).all(), "written beside an output"
        made.append(list(writes))
        results.update(zip(step.outputs, writes, strict=False))
    assert sorted(results) == list(range(len(kernel.outputs)))
    return [results[i] for i in range(len(kernel.outputs))]


def agrees(
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    rule: Rule,
    arrays: Sequence[Array],
    wanted: Sequence[Array],
    cpu: str = "x86-64-v3",
    constants: Sequence[int] = (),
    tolerance: float = 0.0,
) -> Plan:
    """Assert that the plan computes what is wanted, and return it. `tolerance`: relative to the largest value, or to 1."""
    kernel, plan = plan_of(inputs, outputs, rule, cpu, constants)
    for found, want in zip(run(kernel, plan, arrays), wanted, strict=True):
        assert found.shape == want.shape
        assert found.dtype == want.dtype
        scale = max(1.0, float(np.abs(want).max(initial=0))) if tolerance else 1
        np.testing.assert_allclose(found, want, rtol=0, atol=tolerance * scale)
    return plan


def _compiled(step: Step, free: Sequence[Any]) -> Any:
    machine = host_machine()
    assert machine is not None
    buffers = [p for p in step.function.params if isinstance(p.ty, tirx.buffer.BufferType)]
    function = tirx.PrimFunc([*buffers, *free], step.function.body).with_attr({"global_symbol": "kernel", "tirx.noalias": True})
    return tvm.compile(tvm.IRModule({"kernel": function}), target=tvm.target.Target(machine.llvm_target))["kernel"]


def _aligned(array: Array) -> Array:
    """A copy at an address that TVM accepts."""
    raw = np.empty(array.nbytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    copy: Array = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def _guarded(buffer: Any, sizes: Mapping[str, int]) -> tuple[Array, Array]:
    shape = [_value(d, sizes) for d in buffer.ty.shape]
    whole = _aligned(np.full(int(np.prod(shape)) + 2 * _GUARD, _MARK, str(buffer.ty.dtype)))
    return whole, whole[_GUARD : whole.size - _GUARD].reshape(shape)


def _sizes(kernel: Kernel, given: Mapping[int, Array]) -> dict[str, int]:
    found: dict[str, int] = {}
    for i, array in given.items():
        for dimension, size in zip(kernel.params[i].ty.shape, array.shape, strict=True):
            if isinstance(dimension, tvm.ir.Var):
                found.setdefault(dimension.name, size)
    return found


def _value(expression: Any, sizes: Mapping[str, int]) -> int:
    put = tvm_ffi.structural_map(expression, (tvm.ir.Var, lambda v: tirx.const(sizes[v.name], "int64")))
    return int(sym.Analyzer().simplify(put))


__all__ = ["CPUS", "agrees", "plan_of", "run", "symbol", "tensor"]
