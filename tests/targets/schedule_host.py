"""Run one fused function through a schedule on this machine: what the tests of the schedules share."""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax, te, tirx
from tvm.relax.backend.cpu_generic import pipeline

from edgecc.targets.tvm_cpu.machines import host_machine
from edgecc.targets.tvm_cpu.schedules.core import CORES
from edgecc.targets.tvm_cpu.schedules.module import schedule_functions


def call_te(compute, arrays, constants=(), dynamic=None):
    """A module whose `main` calls the function of a te computation over these arrays.

    `constants`: numbers of the arrays that are constants. `dynamic`: for an array's number, a name or None for each
    of its dimensions; dimensions of one name are one symbol.
    """
    symbols: dict[str, tirx.Var] = {}

    def shape_of(i, array):
        names = (dynamic or {}).get(i, [None] * array.ndim)
        return [
            tirx.const(s, "int64") if n is None else symbols.setdefault(n, tirx.Var(n, "int64"))
            for s, n in zip(array.shape, names, strict=True)
        ]

    builder = relax.BlockBuilder()
    variables = [relax.Var(f"x{i}", relax.TensorType(shape_of(i, a), str(a.dtype))) for i, a in enumerate(arrays)]
    operands = [relax.const(a, str(a.dtype)) if i in constants else v for i, (a, v) in enumerate(zip(arrays, variables, strict=True))]
    params = [v for i, v in enumerate(variables) if i not in constants]
    with builder.function("main", params):
        with builder.dataflow():
            result = builder.emit_output(builder.call_te(compute, *operands, primfunc_name_hint="function"))
        builder.emit_func_output(result)
    return builder.get()


def run(module, arrays):
    target = tvm.target.Target(host_machine().llvm_target)
    with target:
        lowered = tvm.transform.Sequential(
            [p for p in pipeline.dataflow_lower_passes(target) if "Reshape" not in p.info.name] + pipeline.finalize_passes(target)
        )(module)
    machine = relax.VirtualMachine(tvm.compile(lowered, target=target, relax_pipeline=None), tvm.cpu())
    out = machine["main"](*[tvm.runtime.tensor(np.ascontiguousarray(a)) for a in arrays])
    return out.numpy() if hasattr(out, "numpy") else [o.numpy() for o in out]


def scheduled(module, cpu=None, prefer="speed"):
    return schedule_functions(module, CORES[cpu or host_machine().cpu.name], prefer)


def check(compute, arrays, want, constants=(), dynamic=None, cpu=None, tolerance=2e-5):
    """The scheduled function gives `want`; returns the text of the rule that took it."""
    module, choices = scheduled(call_te(compute, arrays, constants, dynamic), cpu)
    got = run(module, [a for i, a in enumerate(arrays) if i not in constants])
    scale = max(1.0, float(np.abs(want).max()))
    np.testing.assert_allclose(got / scale, want / scale, atol=tolerance, rtol=0)
    return choices[0].rule


__all__ = ["call_te", "check", "run", "scheduled", "te"]
