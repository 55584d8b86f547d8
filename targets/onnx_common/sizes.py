"""Sizes: constants where they are static, else computed from the inputs by Shape and integer arithmetic."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import sympy
import torch

from edgecc.errors import InternalError
from edgecc.ir.fake import size_expression

if TYPE_CHECKING:
    from edgecc.targets.onnx_common.builder import Builder

Value = Any  # onnx_ir.Value
Size = Any  # int or sympy.Expr


def same_sizes(a: Sequence[Size], b: Sequence[Size]) -> bool:
    """Whether two shapes are equal for every value of their symbols."""
    return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))


def _same(a: Size, b: Size) -> bool:
    return bool(a == b) or (not (isinstance(a, int) and isinstance(b, int)) and sympy.expand(a - b) == 0)


def broadcast(shapes: Sequence[Sequence[Size]]) -> list[Size]:
    """The sizes of operands broadcast to one shape, aligned at the last axis."""
    columns = itertools.zip_longest(*(reversed(s) for s in shapes), fillvalue=1)
    return [_widest(column) for column in columns][::-1]


def _widest(column: Sequence[Size]) -> Size:
    wide = [s for s in column if s != 1]
    return next((s for s in wide if isinstance(s, int)), wide[0] if wide else 1)


def constant_shape(old: Sequence[Size], new: Sequence[Size]) -> list[Size]:
    """The shape for Reshape, with 0 for a dynamic axis that stays in place and -1 for one of the others.

    ONNX Reshape: 0 copies the size of the same axis of the input, -1 is what is left.
    """
    shape = [0 if not isinstance(s, int) and k < len(old) and _same(s, old[k]) else s for k, s in enumerate(new)]
    rest = [k for k, s in enumerate(shape) if not isinstance(s, int)]
    if rest:
        shape[rest[-1]] = -1
    return shape


def dimension_text(size: sympy.Expr, names: Mapping[str, str]) -> str:
    """A dynamic size over the names of the dimensions, which `names` has by symbol."""
    return str(size.subs({s: sympy.Symbol(names.get(str(s), str(s)), integer=True, positive=True) for s in size.free_symbols}))


class Shapes:
    """Computes sizes at run time. A symbol comes from the first input that has it, alone or as `a*s + b`."""

    def __init__(self, builder: Builder) -> None:
        self._b = builder
        self._source: dict[str, tuple[Value, int, int, int]] = {}
        self._known: dict[Any, Value] = {}

    def define(self, value: Value) -> None:
        """Learn the symbols in the sizes of an input."""
        for axis, size in enumerate(self._b.sizes(value)):
            if isinstance(size, int) or len(size.free_symbols) != 1:
                continue
            (symbol,) = size.free_symbols
            factor, offset = size.coeff(symbol), size.subs({symbol: 0})
            linear = factor.is_Integer and offset.is_Integer and sympy.expand(factor * symbol + offset - size) == 0
            if linear and (symbol.name not in self._source or (size == symbol and self._source[symbol.name][2:] != (1, 0))):
                self._source[symbol.name] = value, axis, int(factor), int(offset)

    def vector(self, sizes: Sequence[Any]) -> Value:
        """Sizes as an int64 tensor of rank 1: a constant, or constants and computed ones joined."""
        found = [size_expression(s) if isinstance(s, torch.SymInt) else s for s in sizes]
        pieces: list[Value] = []
        for static, group in itertools.groupby(found, lambda s: isinstance(s, int)):
            members = list(group)
            pieces += [self._b.constant(members, torch.int64, "sizes")] if static else [self.one(s) for s in members]
        return self._b.concat(pieces, 0)

    def scalar(self, size: Size) -> Value:
        """A size as a tensor of rank 0."""
        return self._b.squeeze(self.one(size), [0])

    def one(self, size: Size) -> Value:
        """A size as a tensor of one element, int64, or float64 where it is not an integer."""
        if isinstance(size, (int, float)) or size.is_number:
            whole = isinstance(size, int) or (not isinstance(size, float) and size.is_Integer)
            return self._b.constant([int(size) if whole else float(size)], torch.int64 if whole else torch.float64, "sizes")
        if size not in self._known:
            self._known[size] = self._symbol(size.name) if size.is_Symbol else self._compute(size)
        return self._known[size]

    def _symbol(self, name: str) -> Value:
        if name not in self._source:
            raise InternalError(f"no input has the size {name}")
        value, axis, factor, offset = self._source[name]
        whole = self._b.op("Shape", value, start=axis or None, end=axis + 1, dtype=torch.int64, sizes=[1])
        moved = self._b.binary("Sub", whole, offset) if offset else whole
        return self._b.binary("Div", moved, factor) if factor != 1 else moved

    def _compute(self, expression: Any) -> Value:
        b, name = self._b, type(expression).__name__
        args = [self.one(a) for a in expression.args]
        match name:
            case "Add":
                return functools.reduce(functools.partial(b.op, "Add"), self._same_kind(args))
            case "Mul":
                return functools.reduce(functools.partial(b.op, "Mul"), self._same_kind(args))
            case "Max" | "Min":
                return b.op(name, *args)
            case "FloorDiv" | "CleanDiv":
                return self._floor_divide(expression.args[0], *args)
            case "Mod" | "PythonMod":
                return b.op("Mod", *args)
            case "Pow" | "PowByNatural":
                return functools.reduce(functools.partial(b.op, "Mul"), [args[0]] * int(expression.args[1]))
            case "ToFloat":
                return b.cast(args[0], torch.float64)
            case "IntTrueDiv" | "FloatTrueDiv":
                return b.op("Div", *(b.cast(a, torch.float64) for a in args))
            case "FloatPow":
                return b.op("Pow", *(b.cast(a, torch.float64) for a in args))
            case "OpaqueUnaryFn_sqrt":
                return b.op("Sqrt", b.cast(args[0], torch.float64))
            case "CeilToInt" | "FloorToInt" | "TruncToInt":
                rounded = args[0] if name == "TruncToInt" else b.op(name.removesuffix("ToInt"), args[0])
                return b.cast(rounded, torch.int64)
        raise InternalError(f"the size operator {name} was not refused and cannot be lowered")

    def _same_kind(self, args: list[Value]) -> list[Value]:
        """All as floats where one is."""
        wide: Callable[[Value], bool] = lambda a: self._b.dtype(a) is torch.float64  # noqa: E731  one expression, one name
        return [self._b.cast(a, torch.float64) for a in args] if any(map(wide, args)) else args

    def _floor_divide(self, numerator: Any, x: Value, y: Value) -> Value:
        """ONNX Div rounds towards zero, so that a numerator that may be negative loses its remainder first."""
        if not isinstance(numerator, int) and not numerator.is_nonnegative:
            x = self._b.op("Sub", x, self._b.op("Mod", x, y))
        return self._b.op("Div", x, y)
