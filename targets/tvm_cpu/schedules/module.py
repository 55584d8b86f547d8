"""The module: every fused function of a Relax program replaced by the kernels that its rule plans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgecc.targets.tvm_cpu.schedules.code import Expr
from edgecc.targets.tvm_cpu.schedules.core import Core
from edgecc.targets.tvm_cpu.schedules.plan import Operand, Packed, Param, Plan, Step
from edgecc.targets.tvm_cpu.schedules.rules import plan_kernel
from edgecc.targets.tvm_cpu.schedules.stage import Kernel, NotStagesError, Stage, extent_of, is_buffer, read, variables
from edgecc.targets.tvm_cpu.vector_math.extremes import select_to_max

IN_PLACE = "edgecc.in_place"  # a kernel's attribute: numbers of the parameters that its first output may overlap exactly


@dataclass(frozen=True)
class Choice:
    """Which rule took a function: `by hand` for loops that were written as they shall run."""

    function: str
    rule: str


def schedule_functions(module: Any, core: Core, prefer: str = "speed") -> tuple[Any, list[Choice]]:
    """A tvm.IRModule whose `main` calls kernels, and the choice for each function in the order of the first call.

    A function is planned once for each set of its parameters that are constants. `prefer`: a key of rules.RULES.
    """
    from edgecc.targets.tvm_cpu.schedules.rewriter import rewriter

    planner = _Planner(module, core, prefer)
    rewritten = rewriter()(module, planner).run()
    return rewritten, planner.choices


class _Planner:
    """Plans of functions, one for each set of constant parameters."""

    def __init__(self, module: Any, core: Core, prefer: str) -> None:
        self.module, self.core, self.prefer = module, core, prefer
        self.choices: list[Choice] = []
        self._plans: dict[tuple[str, frozenset[int]], tuple[Kernel, Plan] | None] = {}

    def plan(self, name: str, function: Any, constants: frozenset[int]) -> tuple[Kernel, Plan] | None:
        """The plan for a call of a function; None where it stays as it is."""
        key = (name, constants)
        if key not in self._plans:
            self._plans[key] = self._make(name, function, constants)
        return self._plans[key]

    def _make(self, name: str, function: Any, constants: frozenset[int]) -> tuple[Kernel, Plan] | None:
        try:
            kernel = read(name, function)
        except NotStagesError:
            self.choices.append(Choice(name, "by hand"))
            return None
        kernel.stages = [_as_computed(s, self.core.arch) for s in kernel.stages]
        plan = plan_kernel(kernel, self.core, constants, self.prefer)
        self.choices.append(Choice(name, plan.rule))
        return kernel, plan


def _as_computed(stage: Stage, arch: str) -> Stage:
    """An elementwise stage with maxima and minima as the machine has them, and `x - x` so that TVM does not make it 0.

    Of an infinite x it is NaN.
    """
    import tvm_ffi
    from tvm import tirx

    def difference(node: Any) -> Any:
        if not str(node.ty.dtype).startswith("float") or not tvm_ffi.structural_equal(node.a, node.b):
            return node
        return tirx.call_intrin(node.ty.dtype, "tirx.fma", node.a, tirx.const(-1, str(node.ty.dtype)), node.a)

    if stage.is_reduction:
        return stage
    return replace(stage, update=select_to_max(tvm_ffi.structural_map(stage.update, (tirx.Sub, difference)), arch))


def sizes_of(kernel: Kernel, arguments: Sequence[Any], scalars: Sequence[Expr], results: Sequence[Any]) -> dict[Any, Expr]:
    """The value of each symbolic size of a function at a call, from the shapes of its arguments and results.

    `arguments`: the buffers that it reads; `results`: the types of those that it writes.
    """
    import tvm

    values = dict(zip(kernel.sizes, scalars, strict=True))
    inputs = [p for p in kernel.params if not kernel.is_output(p)]
    pairs = [*zip(inputs, (a.ty for a in arguments), strict=True), *zip(kernel.outputs, results, strict=True)]
    for param, given in pairs:
        for size, actual in zip(param.ty.shape, given.shape, strict=True):
            if isinstance(size, tvm.ir.Var) and size not in values:
                values[size] = actual
    return values


def free_sizes(kernel: Kernel, step: Step) -> list[Any]:
    """The symbolic sizes that a kernel uses and its caller must pass: those that are no dimension of a buffer."""
    import tvm
    import tvm_ffi

    symbols = {v: None for b in (*kernel.params, *step.writes) for d in b.ty.shape for v in _symbols(d)} | dict.fromkeys(kernel.sizes)
    if not symbols:
        return []
    buffers = [p for p in step.function.params if is_buffer(p)]
    bound = {d for b in buffers for d in b.ty.shape if isinstance(d, tvm.ir.Var)}
    used: dict[Any, None] = {}

    def see(variable: Any) -> None:
        if variable in symbols:
            used[variable] = None

    tvm_ffi.structural_walk(step.function.body, (tvm.ir.Var, see), order="post")
    used |= {v: None for b in buffers for d in b.ty.shape for v in _symbols(d)}
    return [v for v in used if v not in bound]


def _symbols(size: Any) -> list[Any]:
    return [] if isinstance(extent_of(size), int) else sorted(variables(size), key=lambda v: str(v.name))


def operand_of(operand: Operand, arguments: Sequence[Any], results: Sequence[Any]) -> Any:
    """The Relax expression of an operand at a call."""
    from tvm import relax

    if isinstance(operand, Param):
        return arguments[operand.index]
    if isinstance(operand, Packed):
        array = operand.pack(arguments[operand.index].value.numpy())
        return relax.const(array, str(array.dtype))
    return results[operand.step]
