"""Matrix products."""

from __future__ import annotations

import torch
from torch import fx

from edgecc.targets.onnx_common.builder import Builder, Size
from edgecc.targets.onnx_common.lowering import blocks, dynamic
from edgecc.targets.onnx_common.lowering.handler import Handlers, Value, first, handlers
from edgecc.targets.onnx_common.lowering.quantization import turned_weight
from edgecc.targets.onnx_common.sizes import broadcast

aten = torch.ops.aten


def linear(b: Builder, x: Value, weight: Value, bias: Value | None, turned: Value | None = None) -> Value:
    """`x @ weight.T + bias`. x [.., in], weight [out, in] or `turned` [in, out] -> [.., out].

    Gemm takes the weight as it is stored where x has two axes; elsewhere MatMul wants it transposed, which is stored
    instead of it, or computed where something else reads the weight itself.
    """
    if b.rank(x) == 2 and b.rank(weight) == 2:
        return b.op("Gemm", x, weight, bias, transB=1, sizes=[b.sizes(x)[0], b.sizes(weight)[0]])
    if turned is None:
        turned = b.swap(weight, 0, 1) if b.rank(weight) > 1 else weight
    product = matmul(b, x, turned)
    return product if bias is None else b.op("Add", product, bias)


def _linear(b: Builder, node: fx.Node, x: Value, weight: Value, bias: Value | None = None) -> Value:
    packed = blocks.product(b, node, x, bias)
    if packed is not None:
        return packed
    turned = turned_weight(b, node, any_rank=b.onnxruntime)
    if turned is not None and b.onnxruntime:
        integers = dynamic.product(b, x, turned, bias)
        if integers is not None:
            return integers
        return _apart(b, matmul(b, x, turned), bias)
    return linear(b, x, weight, bias, turned or blocks.turned_weight(b, node))


def _apart(b: Builder, product: Value, bias: Value | None) -> Value:
    """The sum as ONNX Runtime does not make it a Gemm, for which it has no integer kernel: MatMulAddFusion looks for an Add of
    a bias of rank 1 or 2.
    """
    if bias is None:
        return product
    if b.rank(product) > 2:
        return b.op("Add", product, b.unsqueeze(bias, [0, 1]))
    held = b.tensor_of(bias)
    return b.op("Sub", product, b.op("Neg", bias) if held is None else b.derived([bias], "negated", torch.neg))


def matmul(b: Builder, x: Value, y: Value) -> Value:
    """The product of the last two axes, the others broadcast. ONNX MatMul: numpy.matmul."""
    return b.op("MatMul", x, y, sizes=_product_sizes(b, b.sizes(x), b.sizes(y)))


def _product_sizes(b: Builder, x: list[Size], y: list[Size]) -> list[Size]:
    return [*broadcast([x[:-2], y[:-2]]), *x[-2:-1], *(y[-1:] if len(y) > 1 else [])]


def _matmul(b: Builder, node: fx.Node, x: Value, other: Value | None = None, **operand: Value) -> Value:
    (right,) = operand.values() if other is None else (other,)
    return matmul(b, x, right)


def _outer(b: Builder, node: fx.Node, x: Value, vec2: Value) -> Value:
    to = first(node).dtype
    return b.op("Mul", b.unsqueeze(b.cast(x, to), [1]), b.cast(vec2, to))


def _addmm(b: Builder, node: fx.Node, x: Value, mat1: Value, mat2: Value, beta: float = 1, alpha: float = 1) -> Value:
    if not b.dtype(x).is_floating_point:
        return _add_product(b, x, mat1, mat2, beta, alpha)
    bias, factor = (None, None) if beta == 0 else (x, float(beta))
    return b.op("Gemm", mat1, mat2, bias, alpha=float(alpha), beta=factor, sizes=b.sizes_of(first(node)))


def _baddbmm(b: Builder, node: fx.Node, x: Value, batch1: Value, batch2: Value, beta: float = 1, alpha: float = 1) -> Value:
    return _add_product(b, x, batch1, batch2, beta, alpha)


def _addmv(b: Builder, node: fx.Node, x: Value, mat: Value, vec: Value, beta: float = 1, alpha: float = 1) -> Value:
    return _add_product(b, x, mat, vec, beta, alpha)


def _add_product(b: Builder, x: Value, left: Value, right: Value, beta: float, alpha: float) -> Value:
    """`beta * x + alpha * left @ right`; x is not read where beta is 0."""
    product = matmul(b, left, right)
    product = product if alpha == 1 else b.binary("Mul", product, alpha)
    if beta == 0:
        return product
    return b.op("Add", product, x if beta == 1 else b.binary("Mul", x, beta))


HANDLERS: Handlers = {
    **handlers(_linear, aten.linear.default),
    **handlers(_matmul, aten.matmul.default, aten.mm.default, aten.bmm.default, aten.mv.default, aten.dot.default),
    **handlers(_outer, aten.outer.default),
    **handlers(_addmm, aten.addmm.default),
    **handlers(_baddbmm, aten.baddbmm.default),
    **handlers(_addmv, aten.addmv.default),
}
