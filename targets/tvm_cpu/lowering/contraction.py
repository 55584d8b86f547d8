"""Matrix products."""

from __future__ import annotations

import torch
from torch import fx

from edgecc.targets.tvm_cpu.lowering.arithmetic import result_dtype
from edgecc.targets.tvm_cpu.lowering.builder import Builder, Expr, rank
from edgecc.targets.tvm_cpu.lowering.handler import Handlers, handlers
from edgecc.targets.tvm_cpu.lowering.layout import transpose

aten = torch.ops.aten


def linear(b: Builder, x: Expr, weight: Expr, bias: Expr | None) -> Expr:
    """`x @ weight.T + bias`. x [.., in], weight [out, in] -> [.., out]; x keeps its rank, so that the bias fuses."""
    product = b.op("matmul", x, transpose(b, weight, 0, 1) if rank(weight) > 1 else weight)
    return product if bias is None else b.op("add", product, bias)


def _linear(b: Builder, node: fx.Node, x: Expr, weight: Expr, bias: Expr | None = None) -> Expr:
    return linear(b, x, weight, bias)


def _matmul(b: Builder, node: fx.Node, x: Expr, other: Expr | None = None, **operand: Expr) -> Expr:
    (right,) = operand.values() if other is None else (other,)
    return b.op("matmul", x, right)


def _outer(b: Builder, node: fx.Node, x: Expr, vec2: Expr) -> Expr:
    to = result_dtype(node)
    return b.op("multiply", b.op("expand_dims", b.cast(x, to), 1), b.op("expand_dims", b.cast(vec2, to), 0))


def _add_product(b: Builder, x: Expr, left: Expr, right: Expr, beta: float, alpha: float) -> Expr:
    """`beta * x + alpha * left @ right`; x is not read where beta is 0."""
    product = b.op("matmul", left, right)
    product = product if alpha == 1 else b.binary("multiply", product, alpha)
    if beta == 0:
        return product
    return b.op("add", product, x if beta == 1 else b.binary("multiply", x, beta))


def _addmm(b: Builder, node: fx.Node, x: Expr, mat1: Expr, mat2: Expr, beta: float = 1, alpha: float = 1) -> Expr:
    return _add_product(b, x, mat1, mat2, beta, alpha)


def _baddbmm(b: Builder, node: fx.Node, x: Expr, batch1: Expr, batch2: Expr, beta: float = 1, alpha: float = 1) -> Expr:
    return _add_product(b, x, batch1, batch2, beta, alpha)


def _addmv(b: Builder, node: fx.Node, x: Expr, mat: Expr, vec: Expr, beta: float = 1, alpha: float = 1) -> Expr:
    return _add_product(b, x, mat, vec, beta, alpha)


HANDLERS: Handlers = {
    **handlers(_linear, aten.linear.default),
    **handlers(_matmul, aten.matmul.default, aten.mm.default, aten.bmm.default, aten.mv.default, aten.dot.default),
    **handlers(_outer, aten.outer.default),
    **handlers(_addmm, aten.addmm.default),
    **handlers(_baddbmm, aten.baddbmm.default),
    **handlers(_addmv, aten.addmv.default),
}
