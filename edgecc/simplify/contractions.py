"""Rules that bring matrix products to two operators: `linear` where the right operand is a weight, else `matmul`.

A weight that stands the other way round ([in, out], as in GPT-2's Conv1D) is transposed once at compile time, so that
quantization, pruning and targets meet one layout: [out, in].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from edgecc.ir.ops import bound_arguments
from edgecc.ir.program import Program
from edgecc.simplify.layout import aten, inferred, is_tensor, same_sizes, sizes_as_arguments, static_size, value
from edgecc.simplify.worklist import Missed, Rule

MATRIX_PRODUCTS = (aten.matmul.default, aten.mm.default)


def open_addmm(program: Program, node: fx.Node) -> str | None:
    """addmm(b, x, W) -> linear where W is a weight and b a vector, else beta * b + alpha * (x @ W)."""
    bound = bound_arguments(node)
    bias, x, weight = bound["self"], bound["mat1"], bound["mat2"]
    if bound["beta"] == 1 and bound["alpha"] == 1 and value(bias).dim() == 1 and _same_features(value(bias), value(weight)):
        turned = _as_rows(program, weight)
        if isinstance(turned, fx.Node):
            program.retarget(node, aten.linear.default, x, turned, bias)
            return "linear with the weight as [out, in]"
    return _open_sum(program, node, bias, x, weight, bound["beta"], bound["alpha"])


def open_baddbmm(program: Program, node: fx.Node) -> str | None:
    """baddbmm(b, x, y) -> beta * b + alpha * (x @ y)."""
    bound = bound_arguments(node)
    return _open_sum(program, node, bound["self"], bound["batch1"], bound["batch2"], bound["beta"], bound["alpha"])


def matmul_as_linear(program: Program, node: fx.Node) -> str | None:
    """x @ W with a weight W [in, out] -> linear(x, W^T)."""
    x, weight = node.args[0], node.args[1]
    if not is_tensor(x) or not is_tensor(weight) or value(weight).dim() != 2 or value(x).dim() < 2:  # type: ignore[arg-type]
        return None
    turned = _as_rows(program, weight)  # type: ignore[arg-type]
    if not isinstance(turned, fx.Node):
        return turned
    program.retarget(node, aten.linear.default, x, turned)
    return "linear with the weight as [out, in]"


def linear_of_turned_weight(program: Program, node: fx.Node) -> str | None:
    """linear(x, W.t()) -> linear(x, the weight transposed at compile time)."""
    weight = node.args[1]
    if not _is_transpose(weight):
        return None
    assert isinstance(weight, fx.Node) and isinstance(weight.args[0], fx.Node)
    turned = _as_rows(program, weight.args[0])
    if not isinstance(turned, fx.Node):
        return turned
    program.replace_args(node, node.args[0], turned)
    return "the weight is transposed at compile time"


def add_as_bias(program: Program, node: fx.Node) -> str | None:
    """linear(x, W) + b with a weight b [out] -> linear(x, W, b)."""
    bound = bound_arguments(node)
    operands = (bound["self"], bound["other"])
    for product, bias in (operands, operands[::-1]):
        if not isinstance(product, fx.Node) or product.target != aten.linear.default or not program.is_weight(bias):
            continue
        if bound["alpha"] != 1 or bound_arguments(product)["bias"] is not None or len(product.users) > 1:
            return None
        fits = value(bias).dim() == 1 and same_sizes(value(bias).shape, value(product).shape[-1:])
        if not fits or value(bias).dtype != value(product).dtype:
            return None
        program.retarget(node, aten.linear.default, product.args[0], product.args[1], bias)
        return "the sum is the bias of the linear before it"
    return None


def linear_of_rows(program: Program, node: fx.Node) -> str | None:
    """view(linear(view(x, [-1, in]), W, b), [..., out]) -> linear(x, W, b), which takes leading axes itself."""
    product = node.args[0]
    if not isinstance(product, fx.Node) or product.target != aten.linear.default or len(product.users) > 1:
        return None
    flat = product.args[0]
    if not isinstance(flat, fx.Node) or flat.target not in (aten.view.default, aten.reshape.default):
        return None
    x = flat.args[0]
    if not isinstance(x, fx.Node) or value(x).dim() < 2 or not same_sizes(value(x).shape[-1:], value(flat).shape[-1:]):
        return None
    if not same_sizes(value(node).shape, (*value(x).shape[:-1], value(product).shape[-1])):
        return None
    program.retarget(node, aten.linear.default, x, *product.args[1:])
    return "linear takes the leading axes itself"


def open_einsum(program: Program, node: fx.Node) -> str | None:
    """einsum of one or two operands -> permute, matmul, permute. Subscripts are sorted into those that stay on both
    sides (batch), that one side has alone (rows, columns), and that are summed."""
    equation, operands = bound_arguments(node)["equation"], bound_arguments(node)["tensors"]
    terms, result = _subscripts(equation, [value(o).dim() for o in operands])
    if len(operands) > 2:
        return Missed(f"einsum of {len(operands)} operands")
    if any(len(set(term)) < len(term) for term in terms):
        return Missed("einsum reads a diagonal")
    sizes: dict[str, Any] = {}
    for term, operand in zip(terms, operands, strict=True):
        for letter, size in zip(term, value(operand).shape, strict=True):
            if not same_sizes([sizes.setdefault(letter, size)], [size]):
                return Missed(f"einsum broadcasts the axis {letter}")
    left, right = _Term(terms[0], operands[0]), _Term(terms[1], operands[1]) if len(operands) == 2 else None
    if right is not None and not _joins(left.letters, right.letters, result, sizes):
        return Missed("einsum would join two dynamic axes")
    out = left.sum(program, node, [c for c in left.letters if c not in result and (right is None or c not in right.letters)])
    if right is not None:
        right = right.sum(program, node, [c for c in right.letters if c not in result and c not in left.letters])
        out = _contract(program, node, out, right, result, sizes)
    final = out.order(program, node, result).node
    program.replace(node, final)
    return "opened into matmul"


class _Term:
    """An operand of an einsum with one letter for each axis."""

    def __init__(self, letters: str, node: fx.Node) -> None:
        self.letters, self.node = letters, node

    def order(self, program: Program, before: fx.Node, letters: str) -> _Term:
        order = [self.letters.index(c) for c in letters]
        if order == list(range(len(order))):
            return self
        return _Term(letters, program.call_before(before, aten.permute.default, self.node, order))

    def sum(self, program: Program, before: fx.Node, letters: list[str]) -> _Term:
        if not letters:
            return self
        axes = [self.letters.index(c) for c in letters]
        kept = "".join(c for c in self.letters if c not in letters)
        return _Term(kept, program.call_before(before, aten.sum.dim_IntList, self.node, axes))


def _groups(left: str, right: str, result: str) -> tuple[str, str, str, str]:
    """The subscripts that are batch, rows, summed and columns of a matrix product; what one side sums alone is none."""
    batch = "".join(c for c in result if c in left and c in right)
    shared = "".join(c for c in left if c in right and c not in batch)
    rows = "".join(c for c in left if c in result and c not in right)
    columns = "".join(c for c in right if c in result and c not in left)
    return batch, rows, shared, columns


def _joins(left: str, right: str, result: str, sizes: dict[str, Any]) -> bool:
    """Whether the reshapes around the product can be written: each with at most one dynamic axis, or none is needed."""
    batch, *groups = _groups(left, right, result)

    def dynamic(letters: str) -> int:
        return sum(static_size(sizes[c]) is None for c in letters)

    return all(len(g) == 1 for g in groups) or (all(dynamic(g) == 0 for g in groups) or dynamic(batch + "".join(groups)) <= 1)


def _contract(program: Program, node: fx.Node, left: _Term, right: _Term, result: str, sizes: dict[str, Any]) -> _Term:
    """The product, its axes in the order batch, rows, columns."""
    batch, rows, shared, columns = _groups(left.letters, right.letters, result)
    x = left.order(program, node, batch + rows + shared).node
    y = right.order(program, node, batch + shared + columns).node
    x = _grouped(program, node, x, [batch, rows, shared], sizes)
    y = _grouped(program, node, y, [batch, shared, columns], sizes)
    product = program.call_before(node, aten.matmul.default, x, y)
    return _Term(batch + rows + columns, _ungrouped(program, node, product, batch + rows + columns, sizes))


def _grouped(program: Program, node: fx.Node, x: fx.Node, groups: list[str], sizes: dict[str, Any]) -> fx.Node:
    """Join the axes of the last two groups to one each; an empty group becomes an axis of size 1."""
    if all(len(g) == 1 for g in groups[1:]):
        return x
    shape = [sizes[c] for c in groups[0]]
    for group in groups[1:]:
        size: Any = 1
        for c in group:
            size = size * sizes[c]
        shape.append(size)
    return _reshaped(program, node, x, shape)


def _ungrouped(program: Program, node: fx.Node, x: fx.Node, letters: str, sizes: dict[str, Any]) -> fx.Node:
    shape = [sizes[c] for c in letters]
    return x if same_sizes(value(x).shape, shape) else _reshaped(program, node, x, shape)


def _reshaped(program: Program, node: fx.Node, x: fx.Node, shape: list[Any]) -> fx.Node:
    sizes = sizes_as_arguments(program, node, shape, x)
    assert sizes is not None, "at most one axis of a joined shape is dynamic"
    return program.call_before(node, aten.reshape.default, x, sizes)


def _subscripts(equation: str, ranks: list[int]) -> tuple[list[str], str]:
    """The letters of each operand and of the result; an ellipsis becomes upper-case letters that the equation has not."""
    inputs, arrow, result = equation.replace(" ", "").partition("->")
    terms = inputs.split(",")
    free = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in equation]
    covered = [rank - len(term.replace("...", "")) for term, rank in zip(terms, ranks, strict=True)]
    widest = max((n for n, term in zip(covered, terms, strict=True) if "..." in term), default=0)
    letters = "".join(free[:widest])
    named = [t.replace("...", letters[widest - n :]) for t, n in zip(terms, covered, strict=True)]
    if arrow:
        return named, result.replace("...", letters)
    joined = "".join(named)
    return named, letters + "".join(sorted(c for c in set(joined) if joined.count(c) == 1 and c not in letters))


def _same_features(bias: Any, weight: Any) -> bool:
    return same_sizes(bias.shape, weight.shape[1:]) and bias.dtype == weight.dtype


def _is_transpose(node: object) -> bool:
    """Whether a node turns a matrix: t, transpose(0, 1), permute([1, 0]), mT."""
    if not isinstance(node, fx.Node) or node.op != "call_function" or not is_tensor(node) or value(node).dim() != 2:
        return False
    if node.target == aten.permute.default:
        return [a % 2 for a in node.args[1]] == [1, 0]  # type: ignore[union-attr, operator]
    if node.target == aten.transpose.int:
        return {a % 2 for a in node.args[1:3]} == {0, 1}  # type: ignore[operator]
    return node.target in (aten.t.default, aten.mT.default, aten.numpy_T.default)


def _as_rows(program: Program, weight: fx.Node) -> fx.Node | Missed | None:
    """A weight [in, out] as [out, in]: what it is a transpose of, else a new, transposed weight.

    The new one is shared by all that ask for it. Missed where something else reads the weight as it is: it would be
    stored twice.
    """
    if _is_transpose(weight):
        source = weight.args[0]
        return source if program.is_weight(source) else None  # type: ignore[return-value]
    if not program.is_weight(weight):
        return None
    name = f"{weight.target}_transposed"
    others = [u for u in weight.users if not _reads_as_right_operand(u, weight)]
    if others:
        return Missed(f"{weight.target} is also read by {others[0].name}; a transposed copy would store it twice")
    known: fx.Node | None = next(iter(program.graph.find_nodes(op="get_attr", target=name)), None)
    turned = program.weight(weight).t()
    if known is not None and same_sizes(value(known).shape, turned.shape) and torch.equal(program.weight(known), turned):
        return known
    return program.add_weight(name, turned, weight)


def _reads_as_right_operand(user: fx.Node, weight: fx.Node) -> bool:
    if user.target in MATRIX_PRODUCTS:
        return user.args[1] is weight and user.args[0] is not weight and value(user.args[0]).dim() >= 2  # type: ignore[arg-type]
    if user.target == aten.addmm.default:
        return user.args[2] is weight and user.args[1] is not weight
    return _is_transpose(user) and all(u.target == aten.linear.default and u.args[1] is user for u in user.users)


def _open_sum(program: Program, node: fx.Node, added: fx.Node, x: fx.Node, y: fx.Node, beta: Any, alpha: Any) -> str | None:
    """beta * added + alpha * (x @ y); with beta 0 `added` is not read, as PyTorch says, even if it is not finite."""
    if beta == 0 and not same_sizes(inferred(program, aten.matmul.default, (x, y)).shape, value(node).shape):
        return None
    product = program.call_before(node, aten.matmul.default, x, y)
    if alpha != 1:
        product = program.call_before(node, aten.mul.Tensor, product, alpha)
    if beta == 0:
        program.replace(node, product)
        return "opened into matmul"
    if beta != 1:
        added = program.call_before(node, aten.mul.Tensor, added, beta)
    program.retarget(node, aten.add.Tensor, product, added)
    return "opened into matmul and add"


RULES: dict[object, tuple[Rule, ...]] = {
    aten.addmm.default: (open_addmm,),
    aten.baddbmm.default: (open_baddbmm,),
    aten.einsum.default: (open_einsum,),
    aten.linear.default: (linear_of_turned_weight,),
    aten.add.Tensor: (add_as_bias,),
    aten.view.default: (linear_of_rows,),
    aten.reshape.default: (linear_of_rows,),
    **dict.fromkeys(MATRIX_PRODUCTS, (matmul_as_linear,)),
}
