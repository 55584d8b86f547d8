"""Schedule: primitive functions to the loop nests that a machine runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgecc.targets.tvm_cpu import vector_math
from edgecc.targets.tvm_cpu.layout import assign_layouts
from edgecc.targets.tvm_cpu.machines import Machine
from edgecc.targets.tvm_cpu.schedules.accumulate import allow_vectors_of_isnan
from edgecc.targets.tvm_cpu.schedules.core import CORES
from edgecc.targets.tvm_cpu.schedules.module import Choice, schedule_functions

if TYPE_CHECKING:
    import tvm


def fuse(module: tvm.IRModule) -> tvm.IRModule:
    """Lay out the tensors and fuse neighbours among the functions of a legalized module: the same for every machine."""
    import tvm
    from tvm import relax

    passes = [relax.transform.AnnotateTIROpPattern(), relax.transform.FuseOps(), relax.transform.FuseTIR()]
    passes += [relax.transform.RewriteDataflowReshape()]  # it knows functions of TVM's form only
    with tvm.target.Target("llvm"):
        return tvm.transform.Sequential(passes)(assign_layouts(module))


def schedule(module: tvm.IRModule, machine: Machine, prefer: str = "speed") -> tuple[tvm.IRModule, list[Choice]]:
    """The kernels of a fused module for a machine, and which rule made each. `prefer`: `speed` or `size`."""
    vector_math.install()
    allow_vectors_of_isnan()
    return schedule_functions(module, CORES[machine.cpu.name], prefer)
