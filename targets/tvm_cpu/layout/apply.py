"""Apply: rewrite a program so that its tensors lie in memory as a plan says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgecc.targets.tvm_cpu.layout.choose import inputs
from edgecc.targets.tvm_cpu.layout.graph import Expr, KernelCall, Node, Reshape, Transposition, Var, is_constant, sizes
from edgecc.targets.tvm_cpu.layout.kernels import buffers, unit_view, write
from edgecc.targets.tvm_cpu.layout.order import Order, Size, permuted, plain, same_memory, same_sizes, unit
from edgecc.targets.tvm_cpu.layout.plan import Plan


def apply(module: Any, plan: Plan) -> Any:
    """The module with kernels written for the orders of the plan and constants reordered; what is copied is transposed."""
    from tvm import relax

    main = module["main"]
    rewriter = _Rewriter(module, plan)
    builder = rewriter.builder
    params = [relax.Var(p.name, p.ty) for p in main.params]
    attributes = {k: v for k, v in main.attrs.items() if k != "global_symbol"}
    with builder.function("main", params, attrs=attributes):
        with builder.dataflow():
            rewriter.values.update(zip(main.params, params, strict=True))
            for node in plan.nodes:
                rewriter.rewrite(node)
            result = builder.emit_output(rewriter.plainly(main.body.body))
        builder.emit_func_output(result)
    return relax.transform.LegalizeOps()(builder.get())


class _Rewriter:
    """`values`: the new expression of each variable, whose sizes are in the order of its memory."""

    def __init__(self, module: Any, plan: Plan) -> None:
        from tvm import relax

        self.module, self.plan = module, plan
        self.builder = relax.BlockBuilder()
        self.values: dict[Var, Expr] = {}
        self.made: dict[Any, Expr] = {}  # copies and functions, by what they are made of

    def rewrite(self, node: Node) -> None:
        from tvm import relax

        if isinstance(node, KernelCall):
            value = self._call(node)
        elif isinstance(node, Transposition):
            value = self._tensor(node.source, self._order(node.source))
        elif isinstance(node, Reshape):
            value = self._shaped(
                self._tensor(node.source, self.plan.reads[node.var]), permuted(sizes(node.var), self.plan.orders[node.var])
            )
        else:
            value = self.plainly(node.value)
            value = value if isinstance(value, relax.Tuple) else self.builder.emit(value, node.var.name)
        self.values[node.var] = value

    def plainly(self, value: Expr) -> Expr:
        """An expression over the new tensors in the order of the program."""
        from tvm import ir, relax

        if isinstance(value, relax.Var):
            return self._tensor(value, plain(len(sizes(value)))) if value in self.plan.orders else self.values[value]
        if isinstance(value, relax.Tuple):
            return relax.Tuple([self.plainly(field) for field in value.fields])
        if isinstance(value, relax.TupleGetItem):
            return relax.TupleGetItem(self.plainly(value.tuple_value), value.index)
        if isinstance(value, relax.Call):
            return relax.Call(value.op, [self.plainly(a) for a in value.args], value.attrs, value.ty_args)
        return self._function(value) if isinstance(value, ir.GlobalVar) else value

    def _call(self, node: KernelCall) -> Expr:
        from tvm import relax

        orders = self.plan.choices[node.var].orders
        order_of = dict(zip(buffers(node.kernel), orders, strict=True))
        arguments = [self._tensor(a, order_of[p]) for a, p in zip(node.arguments, inputs(node.kernel), strict=True)]
        made = permuted(list(node.var.ty.shape), order_of[node.kernel.outputs[0]])
        name = node.function.name_hint
        if (name, orders) not in self.made:
            self.made[name, orders] = self.builder.add_func(write(node.kernel, orders), name)
        call = relax.call_tir(self.made[name, orders], [*arguments, *node.scalars], relax.TensorType(made, node.var.ty.dtype))
        return self.builder.emit(call, node.var.name)

    def _function(self, function: Any) -> Any:
        """A function that stays as it is."""
        if function.name_hint not in self.made:
            self.made[function.name_hint] = self.builder.add_func(self.module[function], function.name_hint)
        return self.made[function.name_hint]

    def _order(self, value: Expr) -> Order:
        return plain(len(sizes(value))) if is_constant(value) else self.plan.orders[value]

    def _tensor(self, value: Expr, order: Order) -> Expr:
        """A tensor in an order, by whatever it takes."""
        from tvm import relax

        old = self._order(value)
        if is_constant(value) and order == old:
            return value
        if (value, order) not in self.made:
            if is_constant(value):
                array = np.ascontiguousarray(value.value.numpy().transpose(order))
                self.made[value, order] = relax.const(array, str(value.ty.dtype))
            elif same_memory(old, order, sizes(value)):
                self.made[value, order] = self._shaped(self.values[value], permuted(sizes(value), order))
            else:
                axes = [old.index(d) for d in order]
                self.made[value, order] = self.builder.emit(relax.op.permute_dims(self.values[value], axes))
        return self.made[value, order]

    def _shaped(self, value: Expr, shape: Sequence[Size]) -> Expr:
        """The same memory in a shape."""
        from tvm import relax

        old = sizes(value)
        if same_sizes(old, shape):
            return value
        if same_sizes(*([s for s in group if not unit(s)] for group in (old, shape))):
            function = unit_view(old, shape, str(value.ty.dtype))
            if function is not None:
                call = relax.call_tir(self.builder.add_func(function, "view"), [value], relax.TensorType(list(shape), value.ty.dtype))
                return self.builder.emit(call)
        return self.builder.emit(relax.op.reshape(value, list(shape)))
