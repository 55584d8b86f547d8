"""Formulas of activations and choices: functions of one value, limits, and one of two values by a condition."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from edgecc.rewrite.expression import Call, Literal, Product, Sum, Term, scaled, shape_of, split
from edgecc.rewrite.reading import Arguments, Read, Reader, is_algebraic
from edgecc.rewrite.transparent import resolved

aten = torch.ops.aten
Limits = tuple[float | None, float | None]


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
    source = condition.args[0] if condition.target in _NOT else None
    if isinstance(source, fx.Node) and source.meta["val"].dtype == torch.bool:
        condition, yes, no = resolved(source), no, yes
    reader.seen.add(condition)
    return reader.call("where", condition, yes, no)


def _filled(reader: Reader, value: Any) -> Term:
    """An operand, or the number that it is filled with."""
    if isinstance(value, fx.Node) and isinstance(value.target, torch._ops.OpOverload):
        packet, position = value.target.overloadpacket, _FILLS.get(value.target.overloadpacket)
        number = None if position is None else value.args[position]
        if isinstance(number, (int, float)):
            return Literal(float(number))
        if packet in (aten.zeros, aten.zeros_like, aten.new_zeros):
            return Literal(0.0)
    return reader.operand(value)


_NOT = (aten.logical_not.default, aten.bitwise_not.default)
_FILLS = {aten.full: 1, aten.full_like: 1, aten.new_full: 2, aten.scalar_tensor: 0}


def _fill(reader: Reader, a: Arguments) -> Term | None:
    """A constant with one element is a number."""
    term = _filled(reader, reader.node) if math.prod(reader.shape) == 1 and reader.node.meta["val"].dtype.is_floating_point else None
    return term if isinstance(term, Literal) else None


ACTIVATIONS: dict[Any, Read] = {
    **dict.fromkeys([aten.erf, aten.special_erf], _odd("erf")),
    aten.tanh: _odd("tanh"),
    aten.sigmoid: _plain("sigmoid"),
    aten.exp: _plain("exp"),
    aten.erfc: _erfc,
    aten.special_ndtr: _normal_cdf,
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
}
