"""Formulas: operators as expressions, so that `var`, `relu6`, `masked_fill`, `einsum`, ... match what they compute."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from edgecc.ir.ops import bound_arguments
from edgecc.rewrite import permutation
from edgecc.rewrite.expression import Call, Literal, Product, Shape, Sum, Term, broadcast, scaled, shape_of, split
from edgecc.rewrite.reading import Read, Reader, is_algebraic
from edgecc.rewrite.transparent import resolved

aten = torch.ops.aten
Arguments = dict[str, Any]


def item_of_tuple(reader: Reader) -> Term | None:
    """`var_mean(x)[0]` and `[1]`, and what `broadcast_tensors` leaves as it was."""
    node = reader.node
    source = node.args[0]
    if node.target is operator.getitem and isinstance(source, fx.Node) and source.target is aten.broadcast_tensors.default:
        original: Any = source.args[0][node.args[1]]  # type: ignore[index]
        return reader.operand(original) if shape_of(original) == reader.shape else None
    if node.target is not operator.getitem or not isinstance(source, fx.Node) or source.target not in _PAIRS:
        return None
    a = bound_arguments(source)
    x = reader.operand(a["self"])
    if not x_is_float(x) or _correction(a) >= (_count(reader, x, a.get("dim")) or 0):
        return None
    reader.seen.add(source)
    reader.absorbed.add(source)
    kept = _variance(reader, a) if node.args[1] == 0 else _mean(reader, x, a["dim"])
    return _reduced(reader, kept, a["keepdim"])


_PAIRS = (aten.var_mean.correction, aten.var_mean.dim)


def x_is_float(x: Term) -> bool:
    return isinstance(x, fx.Node) and bool(x.meta["val"].dtype.is_floating_point)


# -- arithmetic


def _add(reader: Reader, a: Arguments, sign: float = 1.0) -> Term | None:
    if not is_algebraic(reader):
        return None
    return reader.sum([(1.0, reader.operand(a["self"])), (sign * a["alpha"], reader.operand(a["other"]))])


def _sub(reader: Reader, a: Arguments) -> Term | None:
    return _add(reader, a, -1.0)


def _rsub(reader: Reader, a: Arguments) -> Term | None:
    if not is_algebraic(reader):
        return None
    return reader.sum([(1.0, reader.operand(a["other"])), (-a["alpha"], reader.operand(a["self"]))])


def _mul(reader: Reader, a: Arguments) -> Term | None:
    if not is_algebraic(reader):
        return None
    return reader.product([(reader.operand(a["self"]), 1.0), (reader.operand(a["other"]), 1.0)])


def _div(reader: Reader, a: Arguments) -> Term | None:
    divisor = reader.operand(a["other"])
    if not is_algebraic(reader) or a.get("rounding_mode") or divisor == Literal(0.0):
        return None
    return reader.product([(reader.operand(a["self"]), 1.0), (divisor, -1.0)])


def _neg(reader: Reader, a: Arguments) -> Term | None:
    return reader.product([(reader.operand(a["self"]), 1.0)], literal=-1.0) if is_algebraic(reader) else None


def _power(exponent: float) -> Read:
    return lambda reader, a: reader.product([(reader.operand(a["self"]), exponent)]) if is_algebraic(reader) else None


def _pow(reader: Reader, a: Arguments) -> Term | None:
    exponent = reader.operand(a["exponent"])
    if not is_algebraic(reader) or not isinstance(exponent, Literal) or exponent.value == 0:
        return None
    return reader.product([(reader.operand(a["self"]), exponent.value)])


def _addcmul(reader: Reader, a: Arguments) -> Term | None:
    if not is_algebraic(reader):
        return None
    first, second = reader.operand(a["tensor1"]), reader.operand(a["tensor2"])
    product = reader.product([(first, 1.0), (second, 1.0)], shape=broadcast([shape_of(first), shape_of(second)]))
    return reader.sum([(1.0, reader.operand(a["self"])), (a["value"], product)])


# -- reductions


def _mean(reader: Reader, x: Term, dims: Any) -> Call:
    """The mean with the reduced axes kept."""
    shape = shape_of(x)
    axes = reader.axes(dims, len(shape))
    return reader.call("mean", x, shape=tuple(1 if i - len(shape) in axes else s for i, s in enumerate(shape)), axis=axes)


def _reduced(reader: Reader, kept: Term, keepdim: bool) -> Term:
    """A reduction as the call wants it: with the reduced axes, or without."""
    if keepdim or shape_of(kept) == reader.shape:
        return kept
    literal, rest = split(kept)
    return scaled(literal, reshaped(reader, rest, reader.shape), reader.shape)


def _mean_of(reader: Reader, a: Arguments) -> Term | None:
    if not is_algebraic(reader):
        return None
    return _reduced(reader, _mean(reader, reader.operand(a["self"]), a.get("dim")), a.get("keepdim", False))


def _sum_of(reader: Reader, a: Arguments) -> Term | None:
    x = reader.operand(a["self"])
    count = _count(reader, x, a.get("dim"))
    if not is_algebraic(reader) or count is None:
        return None
    return _reduced(reader, scaled(count, _mean(reader, x, a.get("dim"))), a.get("keepdim", False))


def _count(reader: Reader, x: Term, dims: Any) -> float | None:
    shape = shape_of(x)
    sizes = [shape[axis] for axis in reader.axes(dims, len(shape))]
    return float(math.prod(s for s in sizes if isinstance(s, int))) if all(isinstance(s, int) for s in sizes) else None


def _variance(reader: Reader, a: Arguments) -> Term:
    x = reader.operand(a["self"])
    mean = _mean(reader, x, a.get("dim"))
    centred = reader.sum([(1.0, x), (-1.0, mean)], shape=shape_of(x))
    square = reader.product([(centred, 2.0)], shape=shape_of(x))
    count = _count(reader, x, a.get("dim"))
    assert count is not None
    return scaled(count / (count - _correction(a)), _mean(reader, square, a.get("dim")))


def _has_variance(reader: Reader, a: Arguments) -> bool:
    count = _count(reader, reader.operand(a["self"]), a.get("dim"))
    return is_algebraic(reader) and count is not None and count > _correction(a)


def _correction(a: Arguments) -> float:
    """How much less than the count the squares are divided by: 1 unless the call says otherwise."""
    return float(a["correction"]) if a.get("correction") is not None else float(a.get("unbiased", True))


def _var(reader: Reader, a: Arguments) -> Term | None:
    return _reduced(reader, _variance(reader, a), a.get("keepdim", False)) if _has_variance(reader, a) else None


def _std(reader: Reader, a: Arguments) -> Term | None:
    if not _has_variance(reader, a):
        return None
    variance = _variance(reader, a)
    return _reduced(reader, reader.product([(variance, 0.5)], shape=shape_of(variance)), a.get("keepdim", False))


def _norm(reader: Reader, a: Arguments) -> Term | None:
    """The 2-norm: `sqrt(n * mean(x**2))`."""
    x, order = reader.operand(a["self"]), a.get("ord", a.get("p"))
    count = _count(reader, x, a.get("dim"))
    if not is_algebraic(reader) or order != 2 or count is None:
        return None
    square = reader.product([(x, 2.0)], shape=shape_of(x))
    mean = _mean(reader, square, a.get("dim"))
    root = reader.product([(mean, 0.5)], literal=math.sqrt(count), shape=shape_of(mean))
    return _reduced(reader, root, a.get("keepdim", False))


# -- functions of one value


def _odd(kind: str) -> Read:
    """`f(-x) = -f(x)`: the sign goes outside."""

    def formula(reader: Reader, a: Arguments) -> Term | None:
        return _odd_call(reader, kind, reader.operand(a["self"])) if is_algebraic(reader) else None

    return formula


def _odd_call(reader: Reader, kind: str, x: Term) -> Term:
    literal, rest = split(reader.expanded(x))
    if literal >= 0:
        return reader.call(kind, x)
    if isinstance(x, fx.Node):
        reader.look_through(x)
    return scaled(-1.0, reader.call(kind, scaled(-literal, rest)))


def _plain(kind: str) -> Read:
    return lambda reader, a: reader.call(kind, reader.operand(a["self"])) if is_algebraic(reader) else None


def _erfc(reader: Reader, a: Arguments) -> Term | None:
    """`1 - erf(x)`."""
    if not is_algebraic(reader):
        return None
    return reader.sum([(1.0, Literal(1.0)), (-1.0, _odd_call(reader, "erf", reader.operand(a["self"])))])


def _normal_cdf(reader: Reader, a: Arguments) -> Term | None:
    """`(1 + erf(x / sqrt(2))) / 2`."""
    if not is_algebraic(reader):
        return None
    argument = reader.product([(reader.operand(a["self"]), 1.0)], literal=math.sqrt(0.5))
    return reader.sum([(1.0, Literal(0.5)), (0.5, reader.call("erf", argument))])


def _clamp(lowest: Any = None, highest: Any = None) -> Read:
    """`min(max(x, low), high)`; limits by value, or by the name of the argument that holds them."""

    def formula(reader: Reader, a: Arguments) -> Term | None:
        low, high = (a[v] if isinstance(v, str) else v for v in (lowest, highest))
        if not is_algebraic(reader) or any(isinstance(v, fx.Node) for v in (low, high)):
            return None
        return _clamped(reader, reader.operand(a["self"]), low, high)

    return formula


def _clamped(reader: Reader, x: Term, low: float | None, high: float | None) -> Term:
    inner = reader.expanded(x)
    scale, argument = 1.0, x
    if isinstance(inner, Call) and inner.kind == "clamp":
        (_, lowest), (_, highest) = inner.attributes
        merged = _merged((lowest, highest), (low, high))
        if merged is not None:
            low, high, argument = *merged, inner.args[0]
    elif isinstance(inner, Product) and inner.literal > 0 and inner.literal != 1:
        scale, argument = split(inner)
    elif isinstance(inner, Sum) and len(inner.terms) == 1 and inner.terms[0][0] > 0:
        ((scale, term),) = inner.terms
        argument = reader.sum([(1.0, Literal(inner.literal / scale)), (1.0, term)]) if scale != 1 else x
    if argument is not x and isinstance(x, fx.Node):
        reader.look_through(x)
    low, high = (None if limit is None else limit / scale for limit in (low, high))
    return scaled(scale, reader.call("clamp", argument, low=low, high=high))


Limits = tuple[float | None, float | None]


def _merged(inner: Limits, outer: Limits) -> Limits | None:
    """`clamp(clamp(x, *inner), *outer)` as one, where they bound different ends."""
    if any(i is not None and o is not None for i, o in zip(inner, outer, strict=True)):
        return None
    low, high = (i if i is not None else o for i, o in zip(inner, outer, strict=True))
    return (low, high) if low is None or high is None or low <= high else None


def _hardsigmoid(reader: Reader, a: Arguments) -> Term | None:
    """`clamp(x + 3, 0, 6) / 6`."""
    if not is_algebraic(reader):
        return None
    shifted = reader.sum([(1.0, Literal(3.0)), (1.0, reader.operand(a["self"]))])
    return scaled(1 / 6, reader.call("clamp", shifted, low=0.0, high=6.0))


def _softmax(reader: Reader, a: Arguments) -> Term | None:
    x, dtype = reader.operand(a["self"]), a.get("dtype")
    if dtype is not None and dtype != a["self"].meta["val"].dtype:
        return None
    return reader.call("softmax", x, axis=reader.axes(a["dim"], len(shape_of(x))))


# -- choices


def _where(reader: Reader, a: Arguments) -> Term:
    return _choice(reader, a["condition"], _filled(reader, a["self"]), _filled(reader, a["other"]))


def _masked_fill(reader: Reader, a: Arguments) -> Term:
    return _choice(reader, a["mask"], _filled(reader, a["value"]), reader.operand(a["self"]))


def _choice(reader: Reader, condition: fx.Node, yes: Term, no: Term) -> Term:
    condition = resolved(condition)
    if condition.target in (aten.logical_not.default, aten.bitwise_not.default) and condition.args[0].meta["val"].dtype == torch.bool:  # type: ignore[union-attr]
        condition, yes, no = resolved(condition.args[0]), no, yes  # type: ignore[arg-type]
    reader.seen.add(condition)
    return reader.call("where", condition, yes, no)


def _filled(reader: Reader, value: Any) -> Term:
    """An operand, or the number that it is filled with."""
    if isinstance(value, fx.Node) and isinstance(value.target, torch._ops.OpOverload):
        packet, position = value.target.overloadpacket, _FILLS.get(value.target.overloadpacket)
        if position is not None and not isinstance(value.args[position], fx.Node):
            return Literal(float(value.args[position]))  # type: ignore[arg-type]
        if packet in (aten.zeros, aten.zeros_like, aten.new_zeros):
            return Literal(0.0)
    return reader.operand(value)


_FILLS = {aten.full: 1, aten.full_like: 1, aten.new_full: 2, aten.scalar_tensor: 0}


def _fill(reader: Reader, a: Arguments) -> Term | None:
    """A constant with one element is a number."""
    term = _filled(reader, reader.node) if math.prod(reader.shape) == 1 and reader.node.meta["val"].dtype.is_floating_point else None
    return term if isinstance(term, Literal) else None


# -- shapes


def _reshape(reader: Reader, a: Arguments) -> Term:
    literal, x = reader.unscaled(a["self"])
    return scaled(literal, reshaped(reader, x, reader.shape))


def _expand(reader: Reader, a: Arguments) -> Term:
    literal, x = reader.unscaled(a["self"])
    return scaled(literal, reader.call("expand", x), reader.shape)


def reshaped(reader: Reader, x: Term, shape: Shape) -> Term:
    """A view with another shape; views of views are one, a view of a power is the power of a view."""
    inner = reader.expanded(x)
    if isinstance(inner, Product) and len(inner.factors) == 1:
        if isinstance(x, fx.Node):
            reader.look_through(x)
        ((base, exponent),) = inner.factors
        return Product(inner.literal, ((reshaped(reader, base, shape), exponent),), shape)
    found = reader.behind(x, "reshape") if isinstance(x, fx.Node) else x
    if isinstance(found, Call) and found.kind == "reshape":
        x = found.args[0]
    return x if shape_of(x) == shape else reader.call("reshape", x, shape=shape)


def _permute(order_of: Callable[[Arguments, int], permutation.Order]) -> Read:
    def formula(reader: Reader, a: Arguments) -> Term:
        literal, x = reader.unscaled(a["self"])
        return scaled(literal, permuted(x, order_of(a, len(reader.shape)), reader))

    return formula


def permuted(x: Term, order: permutation.Order, reader: Reader | None = None) -> Term:
    """A term with its trailing axes in another order; permutations of permutations are one."""
    found = reader.behind(x, "permute") if reader is not None and isinstance(x, fx.Node) else x
    if isinstance(found, Call) and found.kind == "permute":
        x, order = found.args[0], permutation.compose(dict(found.attributes)["order"], order)
    if not order:
        return x
    return Call("permute", (x,), (("order", order),), permutation.permuted(shape_of(x), order))


def _repeat_interleave(reader: Reader, a: Arguments) -> Term | None:
    """Every entry of an axis `n` times in a row: `reshape(expand(reshape(x)))`."""
    x, repeats, dim = reader.operand(a["self"]), a["repeats"], a["dim"]
    if not isinstance(repeats, int) or dim is None:
        return None
    shape = shape_of(x)
    axis = dim % len(shape)
    head, tail = shape[: axis + 1], shape[axis + 1 :]
    single = reader.call("reshape", x, shape=(*head, 1, *tail))
    return reader.call("reshape", reader.call("expand", single, shape=(*head, repeats, *tail)))


# -- matrix products


def _matmul(reader: Reader, a: Arguments) -> Term | None:
    left, right = a["self"], a["mat2"] if "mat2" in a else a["other"]
    if not is_algebraic(reader) or min(len(shape_of(left)), len(shape_of(right))) < 2:
        return None
    (c, x), (d, y) = reader.unscaled(left), reader.unscaled(right)
    return scaled(c * d, reader.call("matmul", x, y))


def _baddbmm(reader: Reader, a: Arguments) -> Term | None:
    if not is_algebraic(reader):
        return None
    (c, x), (d, y) = reader.unscaled(a["batch1"]), reader.unscaled(a["batch2"])
    product = scaled(a["alpha"] * c * d, reader.call("matmul", x, y))
    return reader.sum([(a["beta"], reader.operand(a["self"])), (1.0, product)]) if a["beta"] != 0 else product


def _einsum(reader: Reader, a: Arguments) -> Term | None:
    """Two operands with one contracted and one free index each: a product of permuted matrices."""
    equation, tensors = a["equation"].replace(" ", ""), a["tensors"]
    if not is_algebraic(reader) or len(tensors) != 2 or "->" not in equation or "." in equation:
        return None
    inputs, out = equation.split("->")
    left, right = inputs.split(",")
    batch = [i for i in out if i in left and i in right]
    free = [[i for i in side if i in out and i not in batch] for side in (left, right)]
    contracted = [i for i in left if i in right and i not in out]
    names_fit = all(len(set(s)) == len(s) for s in (left, right, out)) and set(left) | set(right) == {
        *batch,
        *free[0],
        *free[1],
        *contracted,
    }
    if not names_fit or [len(free[0]), len(free[1]), len(contracted)] != [1, 1, 1]:
        return None
    (c, x), (d, y) = reader.unscaled(tensors[0]), reader.unscaled(tensors[1])
    x = permuted(x, permutation.of_axes([left.index(i) for i in [*batch, *free[0], *contracted]]), reader)
    y = permuted(y, permutation.of_axes([right.index(i) for i in [*batch, *contracted, *free[1]]]), reader)
    names = [*batch, *free[0], *free[1]]
    shape = tuple(reader.shape[out.index(i)] for i in names)
    product = Call("matmul", (x, y), (), shape)
    return scaled(c * d, permuted(product, permutation.of_axes([names.index(i) for i in out])))


# -- norms


def _layer_norm(reader: Reader, a: Arguments) -> Term:
    return _normalized(reader, "layer_norm", a, ("weight", "bias"))


def _rms_norm(reader: Reader, a: Arguments) -> Term | None:
    return None if a["eps"] is None else _normalized(reader, "rms_norm", a, ("weight",))


def _normalized(reader: Reader, kind: str, a: Arguments, affine: tuple[str, ...]) -> Term:
    given = [name for name in affine if a[name] is not None]
    tensors = [resolved(a[name]) for name in given]
    reader.seen.update(tensors)
    return reader.call(kind, reader.operand(a["input"]), *tensors, Literal(a["eps"]), axes=len(a["normalized_shape"]), affine=tuple(given))


def _swap(a: Arguments, rank: int) -> permutation.Order:
    first = next((a[name] for name in ("dim0", "axis0") if name in a), -1)
    second = next((a[name] for name in ("dim1", "axis1") if name in a), -2)
    return permutation.of_swap(first, second, rank)


FORMULAS: dict[Any, Read] = {
    **dict.fromkeys([aten.add, aten.add_], _add),
    **dict.fromkeys([aten.sub, aten.subtract], _sub),
    **dict.fromkeys([aten.mul, aten.multiply], _mul),
    **dict.fromkeys([aten.div, aten.divide, aten.true_divide], _div),
    **dict.fromkeys([aten.neg, aten.negative], _neg),
    aten.rsub: _rsub,
    aten.reciprocal: _power(-1.0),
    aten.square: _power(2.0),
    aten.sqrt: _power(0.5),
    aten.rsqrt: _power(-0.5),
    aten.pow: _pow,
    aten.addcmul: _addcmul,
    aten.mean: _mean_of,
    aten.sum: _sum_of,
    aten.var: _var,
    aten.std: _std,
    aten.linalg_vector_norm: _norm,
    aten.norm: _norm,
    aten.erf: _odd("erf"),
    aten.tanh: _odd("tanh"),
    aten.sigmoid: _plain("sigmoid"),
    aten.exp: _plain("exp"),
    aten.erfc: _erfc,
    **dict.fromkeys([aten.special_erf], _odd("erf")),
    **dict.fromkeys([aten.special_ndtr], _normal_cdf),
    aten.relu: _clamp(0.0),
    aten.relu6: _clamp(0.0, 6.0),
    aten.hardtanh: _clamp("min_val", "max_val"),
    **dict.fromkeys([aten.clamp, aten.clip], _clamp("min", "max")),
    aten.clamp_min: _clamp("min", None),
    aten.clamp_max: _clamp(None, "max"),
    aten.hardsigmoid: _hardsigmoid,
    **dict.fromkeys([aten.softmax, aten._softmax], _softmax),
    aten.where: _where,
    aten.masked_fill: _masked_fill,
    **dict.fromkeys([aten.full, aten.scalar_tensor, aten.full_like, aten.zeros, aten.zeros_like], _fill),
    **dict.fromkeys([aten.view, aten.reshape, aten._unsafe_view, aten.unsqueeze, aten.squeeze, aten.flatten, aten.unflatten], _reshape),
    aten.permute: _permute(lambda a, rank: permutation.of_axes(a["dims"])),
    **dict.fromkeys([aten.transpose, aten.swapaxes, aten.swapdims, aten.t, aten.mT], _permute(_swap)),
    aten.expand: _expand,
    aten.repeat_interleave: _repeat_interleave,
    **dict.fromkeys([aten.matmul, aten.bmm, aten.mm], _matmul),
    aten.baddbmm: _baddbmm,
    aten.einsum: _einsum,
    aten.layer_norm: _layer_norm,
    aten.rms_norm: _rms_norm,
}
