"""Formulas of arithmetic: sums and products of operands, which the reader flattens."""

from __future__ import annotations

from typing import Any

import torch

from edgecc.rewrite.expression import Literal, Term, broadcast, shape_of
from edgecc.rewrite.reading import Arguments, Read, Reader, is_algebraic

aten = torch.ops.aten


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


ARITHMETIC: dict[Any, Read] = {
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
}
