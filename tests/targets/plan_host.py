"""Run the plan of one primitive function on this machine, step by step, and compare it with PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import tvm
from tvm import relax, te, tirx

from edgecc.targets.tvm_cpu.schedules.core import CORES, Core
from edgecc.targets.tvm_cpu.schedules.plan import Param, Plan, Temp
from edgecc.targets.tvm_cpu.schedules.stage import Kernel, read, replace
from tests.targets.lowering_host import close

Planner = Callable[[Kernel, Core], Plan | None]


def size(name: str) -> Any:
    """A symbolic size."""
    return tirx.Var(name, "int64")


def tensor(*sizes: Any, dtype: str = "float32") -> Any:
    return te.placeholder([tirx.const(s, "int64") if isinstance(s, int) else s for s in sizes], name="x", dtype=dtype)


def operator(call: Callable[..., Any], *tensors: tuple[Sequence[Any], str]) -> Any:
    """The primitive function that TVM makes of one Relax operator."""
    builder = relax.BlockBuilder()
    inputs = [relax.Var(f"x{i}", relax.TensorType(shape, dtype)) for i, (shape, dtype) in enumerate(tensors)]
    with builder.function("main", inputs):
        with builder.dataflow():
            result = builder.emit_output(builder.emit(call(*inputs)))
        builder.emit_func_output(result)
    passes = [relax.transform.LegalizeOps(), relax.transform.AnnotateTIROpPattern(), relax.transform.FuseOps(), relax.transform.FuseTIR()]
    functions = tvm.transform.Sequential(passes)(builder.get()).functions_items()
    (function,) = [f for _, f in functions if isinstance(f, tirx.PrimFunc)]
    return function


def run(function: Any, inputs: Sequence[np.ndarray[Any, Any]], planner: Planner, cpu: str) -> tuple[Plan, list[np.ndarray[Any, Any]]]:
    """The plan for `cpu`, and its outputs, computed here."""
    kernel = read("function", function)
    plan = planner(kernel, CORES[cpu])
    assert plan is not None, "the rule does not take the function"
    symbols = {
        dim: actual
        for param, given in zip(kernel.params, inputs, strict=False)
        for dim, actual in zip(param.ty.shape, given.shape, strict=True)
        if isinstance(dim, tvm.ir.Var)
    }
    made: list[Any] = []
    outputs: dict[int, np.ndarray[Any, Any]] = {}
    for step in plan.steps:
        reads = [made[o.step] if isinstance(o, Temp) else tvm.runtime.tensor(inputs[_number(o)]) for o in step.reads]
        writes = [tvm.runtime.empty(_shape(w, symbols), str(w.ty.dtype)) for w in step.writes]
        free = _free(step.function, symbols)
        body = tirx.PrimFunc([*step.function.params, *free], step.function.body).with_attr(
            {"tirx.noalias": True, "global_symbol": "kernel"}
        )
        library = tvm.compile(tvm.IRModule({"kernel": body}), target=tvm.target.Target({"kind": "llvm", "opt-level": 1}))
        library["kernel"](*reads, *writes, *(symbols[v] for v in free))
        made.append(writes[0])
        outputs |= {o: w.numpy() for o, w in zip(step.outputs, writes, strict=False)}
    return plan, [outputs[i] for i in sorted(outputs)]


def check(
    function: Any,
    inputs: Sequence[np.ndarray[Any, Any] | torch.Tensor],
    *want: torch.Tensor,
    planner: Planner,
    cpus: Sequence[str] = ("x86-64-v3", "cortex-a72"),
    tolerance: float = 2e-6,
) -> list[str]:
    """Compare with PyTorch for vectors of several widths, and return the rule that each CPU got."""
    rules = []
    for cpu in cpus:
        plan, got = run(function, [np.ascontiguousarray(i) for i in inputs], planner, cpu)
        assert len(got) == len(want)
        for one, expected in zip(got, want, strict=True):
            close(one, expected, tolerance, f"{plan.rule} for {cpu}")
        rules.append(plan.rule)
    return rules


def _number(operand: Any) -> int:
    assert isinstance(operand, Param), "these functions have no constants"
    return operand.index


def _shape(buffer: Any, symbols: dict[Any, int]) -> list[int]:
    return [int(tvm.sym.Analyzer().simplify(replace(d, symbols))) for d in buffer.ty.shape]


def _free(function: Any, symbols: dict[Any, int]) -> list[Any]:
    """The sizes that a kernel needs and that are no dimension of its buffers."""
    import tvm_ffi

    bound = {d for p in function.params for d in p.ty.shape if isinstance(d, tvm.ir.Var)}
    used: list[Any] = []
    tvm_ffi.structural_walk(function.body, (tvm.ir.Var, used.append), order="post")
    return [v for v in dict.fromkeys(used) if v in symbols and v not in bound]
