"""Builder: the Relax function under construction, its constants and its symbolic sizes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx

from edgecc.ir.program import Program
from edgecc.targets.tvm_cpu.lowering.sizes import Sizes

Expr = Any  # tvm.relax.Expr
_TORCH_TO_TVM = {torch.bool: "bool"}


def dtype_name(dtype: torch.dtype) -> str:
    """TVM's name of a torch dtype."""
    return _TORCH_TO_TVM.get(dtype, str(dtype).removeprefix("torch."))


def dtype(x: Expr) -> str:
    return str(x.ty.dtype)


def shape(x: Expr) -> list[Any]:
    """Sizes of a Relax tensor: an int where static, else a TVM expression."""
    from tvm import tirx

    return [int(s) if isinstance(s, (int, tirx.IntImm)) else s for s in x.ty.shape]


def rank(x: Expr) -> int:
    return int(x.ty.ndim)


def axis_of(dim: int, x: Expr) -> int:
    """A dimension counted from the front."""
    return dim % max(rank(x), 1)


def same_shape(a: Sequence[Any], b: Sequence[Any]) -> bool:
    """Whether two shapes are equal for every value of their symbols."""
    return len(a) == len(b) and all(_same_size(x, y) for x, y in zip(a, b, strict=True))


def _same_size(a: Any, b: Any) -> bool:
    from tvm import sym

    return a == b if isinstance(a, int) and isinstance(b, int) else bool(sym.Analyzer().can_prove_equal(int64(a), int64(b)))


class Builder:
    """What handlers build with. Every method that makes an expression binds it to a variable of the function."""

    def __init__(self, program: Program) -> None:
        from tvm import relax

        self.program = program
        self.block = relax.BlockBuilder()
        self.sizes = Sizes()
        self._constants: dict[Any, Expr] = {}

    def shape(self, value: fx.Node | torch.Tensor) -> list[Any]:
        """Sizes of a node's value as TVM takes them."""
        tensor = value.meta["val"] if isinstance(value, fx.Node) else value
        return [self.sizes(size) for size in tensor.shape]

    # -- constants

    def constant(self, value: Any, dtype: str) -> Expr:
        """A Python number or an array as a constant. The dtype is always given: TVM's default narrows int64."""
        from tvm import relax

        return relax.const(np.asarray(value, dtype), dtype)

    def weight(self, node: fx.Node) -> Expr:
        """The constant of a weight node. Tied weights, views of the same memory, are one constant."""
        tensor = self.program.weight(node)
        key = tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype
        if key not in self._constants:
            array = tensor.contiguous().cpu().numpy()
            self._constants[key] = self.constant(array, str(array.dtype))
        return self._constants[key]

    def tensor(self, value: Any, dtype: str) -> Expr:
        """A tensor of this dtype: an expression cast, a number as a constant of rank 0, a size computed at run time."""
        from tvm import relax, te

        if isinstance(value, (bool, int, float)):
            return self.constant(value, dtype)
        if isinstance(value.ty, relax.TensorType):
            return self.cast(value, dtype)
        return self.te("scalar", lambda v: te.compute((), lambda: v.astype(dtype), name="scalar"), value)

    def value(self, constant: Expr) -> np.ndarray[Any, Any]:
        """The array of a constant expression, an operand that `refuse` has found to be a weight."""
        array: np.ndarray[Any, Any] = constant.value.numpy()
        return array

    # -- expressions

    def emit(self, expression: Expr) -> Expr:
        return self.block.emit(expression)

    def op(self, name: str, *args: Any, **kwargs: Any) -> Expr:
        """The Relax operator of this dotted name."""
        from tvm import relax

        function = functools.reduce(getattr, name.split("."), relax.op)
        return self.emit(function(*args, **kwargs))

    def binary(self, name: str, x: Expr | float, y: Expr | float) -> Expr:
        """A binary Relax operator; a Python number becomes a constant of the other operand's dtype."""
        if isinstance(x, (bool, int, float)):
            return self.op(name, self.constant(x, dtype(y)), y)
        return self.op(name, x, self.constant(y, dtype(x)) if isinstance(y, (bool, int, float)) else y)

    def cast(self, x: Expr, to: str) -> Expr:
        """x with values converted as PyTorch does: towards zero to integers, `!= 0` to bool."""
        if dtype(x) == to:
            return x
        return self.not_equal(x, self.constant(0, dtype(x))) if to == "bool" else self.op("astype", x, to)

    def not_equal(self, x: Expr, y: Expr) -> Expr:
        """`x != y`, true where one of them is NaN: TVM's comparison of floats is ordered, so it is false there."""
        different = self.op("not_equal", x, y)
        for operand in (x, y) if "float" in dtype(x) else ():
            if not self.is_constant(operand):
                different = self.op("logical_or", different, self.op("isnan", operand))
        return different

    def is_constant(self, x: Expr) -> bool:
        """Whether an expression is a number made by `constant`, not NaN."""
        return isinstance(x, type(self.constant(0, "int64"))) and rank(x) == 0 and not np.isnan(x.value.numpy())

    def reshape(self, x: Expr, sizes: Sequence[Any]) -> Expr:
        return x if same_shape(shape(x), sizes) else self.op("reshape", x, list(sizes))

    def broadcast(self, x: Expr, sizes: Sequence[Any]) -> Expr:
        return x if same_shape(shape(x), sizes) else self.op("broadcast_to", x, list(sizes))

    def te(self, name: str, function: Callable[..., Any], *operands: Any) -> Expr:
        """A kernel written as a tensor expression over the operands.

        A symbolic size that the function reads must be an operand, or come from the shape of one: a captured one
        stays undefined in the kernel.
        """
        return self.block.emit_te(function, *operands, primfunc_name_hint=name)

    def prim_func(self, name: str, function: Any, operands: Sequence[Expr], results: Sequence[tuple[Sequence[Any], str]]) -> list[Expr]:
        """Call a kernel that is written as a TIR function: its results, of the given sizes and dtypes, come last."""
        from tvm import relax

        types = [relax.TensorType([int64(s) for s in sizes], to) for sizes, to in results]
        call = self.emit(relax.call_tir(self.block.add_func(function, name), list(operands), types if len(types) > 1 else types[0]))
        return [self.emit(relax.TupleGetItem(call, i)) for i in range(len(types))] if len(types) > 1 else [call]

    def compute(self, name: str, sizes: Sequence[Any], element: Callable[..., Any], *operands: Any) -> Expr:
        """A kernel of one stage: `element(*operands, *indices)` for each index of the result."""
        from tvm import te

        extents = [int64(s) for s in sizes]
        return self.te(name, lambda *args: te.compute(extents, lambda *index: element(*args, *index), name=name), *operands)

    def broadcasting(self, name: str, element: Callable[..., Any], *operands: Expr) -> Expr:
        """A kernel of one stage over operands broadcast to one shape: `element(*values)` for each index."""
        from tvm import te, topi

        def function(*tensors: Any) -> Any:
            sizes = functools.reduce(topi.add, tensors).shape
            return te.compute(sizes, lambda *index: element(*(t(*_own_index(t, index)) for t in tensors)), name=name)

        return self.te(name, function, *operands)


def _own_index(tensor: Any, index: tuple[Any, ...]) -> list[Any]:
    """The index into an operand that was broadcast to the rank and sizes of the result."""
    own = index[len(index) - len(tensor.shape) :]
    return [int64(0) if is_one(size) else i for size, i in zip(tensor.shape, own, strict=True)]


def is_one(size: Any) -> bool:
    from tvm import tirx

    return isinstance(size, (int, tirx.IntImm)) and int(size) == 1


def int64(value: Any) -> Any:
    """An integer for index arithmetic: int64, as symbolic sizes are."""
    from tvm import tirx

    return tirx.IntImm("int64", value) if isinstance(value, int) else value
