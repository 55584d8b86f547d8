"""The rewriter: calls of fused functions in `main` become calls of their kernels."""

from __future__ import annotations

import functools
from typing import Any

from edgecc.targets.tvm_cpu.schedules.stage import is_buffer, replace


@functools.cache
def rewriter() -> Any:
    """The class, made when TVM is imported for the first time."""
    import tvm
    from tvm import relax, tirx
    from tvm.relax.expr_functor import PyExprMutator, mutator

    from edgecc.targets.tvm_cpu.schedules import module as driver

    @mutator
    class Rewriter(PyExprMutator):  # type: ignore[misc]
        def __init__(self, module: Any, planner: Any) -> None:
            super().__init__(module)
            self._module, self._planner = module, planner
            self._functions: dict[Any, Any] = {}

        def run(self) -> Any:
            for name, function in self._module.functions_items():
                if isinstance(function, relax.Function):
                    self.builder_.update_func(name, self.visit_expr(function))
            return relax.transform.DeadCodeElimination()(self.builder_.get())

        def visit_call_(self, call: Any) -> Any:
            call = super().visit_call_(call)
            if getattr(call.op, "name", "") != "relax.call_tir":
                return call
            callee, given = call.args[0], list(call.args[1].fields)
            params = self._module[callee].params
            scalars = [a for p, a in zip(params, given, strict=False) if not is_buffer(p)]
            scalars += list(call.args[2].values) if len(call.args) > 2 else []
            arguments = [a for p, a in zip(params, given, strict=False) if is_buffer(p)]
            constants = frozenset(i for i, a in enumerate(arguments) if isinstance(a, tvm.ir.GenericConst))
            planned = self._planner.plan(callee.name_hint, self._module[callee], constants)
            if planned is None:
                return call
            kernel, plan = planned
            types = list(call.ty.fields) if isinstance(call.ty, tvm.ir.TupleType) else [call.ty]
            sizes = driver.sizes_of(kernel, arguments, scalars, types)
            results: list[Any] = []
            final: dict[int, Any] = {}
            for number, step in enumerate(plan.steps):
                made = self._call((callee.name_hint, constants, number), kernel, step, sizes, arguments, results)
                results.append(made)
                for k, output in enumerate(step.outputs):
                    final[output] = made if len(step.writes) == 1 else relax.TupleGetItem(made, k)
            if len(final) == 1 and not isinstance(call.ty, tvm.ir.TupleType):
                return final[0]
            return relax.Tuple([final[i] for i in sorted(final)])

        def _call(self, key: Any, kernel: Any, step: Any, sizes: Any, arguments: Any, results: Any) -> Any:
            free = driver.free_sizes(kernel, step)
            if key not in self._functions:
                buffers = [p for p in step.function.params if is_buffer(p)]
                reads = len(step.reads)
                function = tirx.PrimFunc([*buffers[:reads], *free, *buffers[reads:]], step.function.body).with_attr("tirx.noalias", True)
                function = function.with_attr(driver.IN_PLACE, [tirx.IntImm("int64", i) for i in step.in_place])
                self._functions[key] = self.builder_.add_func(function, step.name)
            operands = [driver.operand_of(o, arguments, results) for o in step.reads]
            types = [relax.TensorType([replace(d, sizes) for d in w.ty.shape], str(w.ty.dtype)) for w in step.writes]
            given = relax.Tuple([*operands, *(sizes[v] for v in free)])
            return self.builder_.emit(relax.call_tir(self._functions[key], given, types[0] if len(types) == 1 else types))

    return Rewriter
