"""Schedule: primitive functions to the loop nests that a machine runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgecc.targets.tvm_cpu import vector_math
from edgecc.targets.tvm_cpu.layout import assign_layouts
from edgecc.targets.tvm_cpu.machines import Machine
from edgecc.targets.tvm_cpu.schedules.accumulate import allow_vectors_of_isnan
from edgecc.targets.tvm_cpu.schedules.contraction import narrow
from edgecc.targets.tvm_cpu.schedules.core import CORES
from edgecc.targets.tvm_cpu.schedules.module import Choice, schedule_functions
from edgecc.targets.tvm_cpu.schedules.stage import NotStagesError, read
from edgecc.targets.tvm_cpu.schedules.weight_form import weight_form

if TYPE_CHECKING:
    import tvm


_FUSES_AFTER = 4  # relax::OpPatternKind::kOutEWiseFusable


def fuse(module: tvm.IRModule) -> tvm.IRModule:
    """Lay out the tensors and fuse neighbours among the functions of a legalized module: the same for every machine."""
    import tvm
    from tvm import relax

    passes = [relax.transform.AnnotateTIROpPattern(), relax.transform.FuseOps(), relax.transform.FuseTIR()]
    passes += [relax.transform.RewriteDataflowReshape()]  # it knows functions of TVM's form only
    with tvm.target.Target("llvm"):
        return tvm.transform.Sequential(passes)(_with_patterns(assign_layouts(module)))


def _with_patterns(module: tvm.IRModule) -> tvm.IRModule:
    """Say of sums of products of codes that what follows may be fused into them: TVM does not see products behind casts."""
    from tvm import tirx

    for name, function in module.functions_items():
        if isinstance(function, tirx.PrimFunc) and _sums_codes(name.name_hint, function):
            module.update_func(name, function.with_attr("op_pattern", _FUSES_AFTER))
    return module


def _sums_codes(name: str, function: tvm.tirx.PrimFunc) -> bool:
    from tvm import tirx

    try:
        kernel = read(name, function)
    except NotStagesError:
        return False
    products = [s.term for s in kernel.stages if s.combine == "sum" and isinstance(s.term, tirx.Mul)]
    return any(narrow(t.a) is not t.a or weight_form(t.b) is not None for t in products)


def schedule(module: tvm.IRModule, machine: Machine, prefer: str = "speed") -> tuple[tvm.IRModule, list[Choice]]:
    """The kernels of a fused module for a machine, and which rule made each. `prefer`: `speed` or `size`."""
    vector_math.install()
    allow_vectors_of_isnan()
    return schedule_functions(module, CORES[machine.cpu.name], prefer)
