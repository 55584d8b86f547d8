"""Program: what a scheduled Relax `main` does, as a list of kernel calls on tensors.

A reshape is the same memory under another shape. A result that is an output is written where the caller wants it; an
output that is an input, a weight or another output again is copied at the end.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgecc.targets.tvm_cpu.standalone.kernels import ALIGNMENT, Kernel
from edgecc.targets.tvm_cpu.standalone.sizes import Interval, Size, bounds, constant, substitute, variables

_VIEWS = {"relax.reshape", "relax.expand_dims", "relax.squeeze", "relax.flatten", "relax.memory.view", "relax.memory.ensure_zero_offset"}


class NotStandaloneError(Exception):
    """The program needs something that only a runtime has."""


@dataclass(eq=False)
class Tensor:
    """Memory. `kind`: input, output, weight or arena; `index`: of the input or output; `bytes` and its bound `upper`.

    `first`, `last`: the steps that touch it. `offset`: in the arena, after planning, or in the weights.
    """

    kind: str
    bytes: Size
    upper: int
    index: int = 0
    first: int = -1
    last: int = -1
    offset: int = 0

    def touch(self, step: int) -> None:
        self.first, self.last = (step if self.first < 0 else self.first), max(self.last, step)


@dataclass(frozen=True)
class Port:
    """An input or output of `main`; dtype is numpy's name."""

    dtype: str
    shape: tuple[Size, ...]


@dataclass(frozen=True)
class Step:
    """One call of a kernel; the last `results` of the buffers are written. Sizes are over the variables of `main`."""

    kernel: Kernel
    buffers: tuple[Tensor, ...]
    results: int
    sizes: tuple[Size, ...]
    extent: Size
    temporaries: tuple[Tensor, ...] = ()


@dataclass
class Program:
    """`variables`: inclusive bounds by name, in the order of the inputs that define them. `copies`: output index and source."""

    inputs: list[Port]
    outputs: list[Port] = field(default_factory=list)
    variables: dict[str, Interval] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    copies: list[tuple[int, Tensor]] = field(default_factory=list)
    weights: bytearray = field(default_factory=bytearray)

    def arena_tensors(self) -> list[Tensor]:
        """Results and temporaries that live in the arena, each once, in the order of their first use."""
        found = {id(t): t for s in self.steps for t in (*s.buffers, *s.temporaries) if t.kind == "arena"}
        return list(found.values())


def read_program(module: Any, kernels: Mapping[str, Kernel]) -> Program:
    """The program of a scheduled module whose primitive functions are `kernels`.

    Raises NotStandaloneError for a size without an upper bound, and for what is neither a call of a primitive function
    nor a reshape.
    """
    return _Reader(module, kernels).read()


def called_functions(module: Any) -> dict[str, Any]:
    """The primitive functions that `main` calls and that do more than give a tensor another shape, by name."""
    found = {}
    for _, value in _bindings(module["main"]):
        if _operator(value) == "relax.call_tir":
            function = module[value.args[0]]
            if not _is_reshape(function):
                found[value.args[0].name_hint] = function
    return found


class _Reader:
    def __init__(self, module: Any, kernels: Mapping[str, Kernel]) -> None:
        self.module, self.kernels = module, kernels
        self.main = module["main"]
        self.values: dict[Any, Any] = {}
        self.known: dict[bytes, Tensor] = {}
        self.program = Program([])

    def read(self) -> Program:
        self._read_variables()
        for index, param in enumerate(self.main.params):
            self.program.inputs.append(Port(_dtype(param.ty), _shape(param.ty)))
            self.values[param] = self._tensor("input", param.ty, index)
        for variable, value in _bindings(self.main):
            self.values[variable] = self._value(value)
        result = self.main.body.body
        types = result.ty.fields if hasattr(result.ty, "fields") else [result.ty]
        for index, (tensor, of) in enumerate(zip(_flat(self._value(result)), types, strict=True)):
            self.program.outputs.append(Port(_dtype(of), _shape(of)))
            if tensor.kind == "arena":
                tensor.kind, tensor.index = "output", index
            else:
                self.program.copies.append((index, tensor))
        return self.program

    def _read_variables(self) -> None:
        attributes = self.main.attrs or {}
        upper, lower = attributes.get("tir_var_upper_bound", {}), attributes.get("tir_var_lower_bound", {})
        for param in self.main.params:
            for size in _shape(param.ty):
                for variable in variables(size):
                    if variable.name not in upper:
                        raise NotStandaloneError(f"the dimension {variable.name} has no upper bound")
                    self.program.variables[variable.name] = int(lower.get(variable.name, 0)), int(upper[variable.name])

    def _tensor(self, kind: str, of: Any, index: int = 0) -> Tensor:
        return self._memory(kind, _bytes(_shape(of), _dtype(of)), index)

    def _memory(self, kind: str, size: Size, index: int = 0) -> Tensor:
        return Tensor(kind, size, int(bounds(size, self.program.variables)[1]), index)

    def _value(self, value: Any) -> Any:
        import tvm
        from tvm import relax

        if isinstance(value, tvm.ir.GenericConst):
            return self._weight(value)
        if isinstance(value, relax.Tuple):
            return [self._value(v) for v in value.fields]
        if isinstance(value, relax.TupleGetItem):
            return self._value(value.tuple_value)[value.index]
        name = _operator(value)
        if name == "relax.call_tir":
            return self._call(value)
        if name in _VIEWS:
            return self._value(value.args[0])
        if not name and value in self.values:
            return self.values[value]
        raise NotStandaloneError(f"the program uses {name or type(value).__name__}")

    def _weight(self, constant: Any) -> Tensor:
        import numpy as np

        array = np.ascontiguousarray(constant.value.numpy())
        content = array.tobytes()
        key = hashlib.sha256(content).digest()
        if key not in self.known:
            weights = self.program.weights
            weights.extend(bytes(-len(weights) % ALIGNMENT))
            self.known[key] = Tensor("weight", len(content), len(content), offset=len(weights))
            weights.extend(content)
        return self.known[key]

    def _call(self, call: Any) -> Any:
        function, operands = self.module[call.args[0]], list(call.args[1].fields)
        if _is_reshape(function):
            return self._value(operands[0])
        kernel = self.kernels[call.args[0].name_hint]
        types = list(call.ty.fields) if hasattr(call.ty, "fields") else [call.ty]
        results = [self._tensor("arena", of) for of in types]
        tensors = [o for o in operands if hasattr(o.ty, "shape")]
        buffers = [*_flat([self._value(o) for o in tensors]), *results]
        scalars = [o for o in operands if not hasattr(o.ty, "shape")] + (list(call.args[2].values) if len(call.args) > 2 else [])
        table = _bind(function, [*(_shape(o.ty) for o in tensors), *(_shape(of) for of in types)], scalars)
        for variable in kernel.sizes:
            if variable not in table and variable.name not in self.program.variables:
                raise NotStandaloneError(f"{kernel.name} has the size {variable.name}, which no argument defines")
        sizes = tuple(table.get(v, v) for v in kernel.sizes)
        temporaries = tuple(self._memory("arena", substitute(t, table)) for t in kernel.temporaries)
        number = len(self.program.steps)
        for tensor in (*buffers, *temporaries):
            tensor.touch(number)
        extent = substitute(kernel.extent, table)
        self.program.steps.append(Step(kernel, tuple(buffers), len(results), sizes, extent, temporaries))
        return results if hasattr(call.ty, "fields") else results[0]


def _is_reshape(function: Any) -> bool:
    """Whether a function copies its operand in the same order, which needs no kernel; a kernel that is loops already is one."""
    from tvm import relax, s_tir

    return isinstance(function.body, s_tir.SBlockRealize) and bool(relax.analysis.has_reshape_pattern(function))


def _bind(function: Any, shapes: Sequence[Sequence[Size]], scalars: Sequence[Size]) -> dict[Any, Size]:
    """The value of each symbolic size of a primitive function, for arguments of these shapes."""
    table: dict[Any, Size] = {}
    given, numbers = iter(shapes), iter(scalars)
    for param in function.params:
        if not hasattr(param.ty, "shape"):
            table[param] = constant(next(numbers))
            continue
        for dimension, size in zip(param.ty.shape, next(given), strict=True):
            if type(dimension).__name__ == "Var" and dimension not in table:
                table[dimension] = size
    return table


def _bindings(function: Any) -> Iterator[tuple[Any, Any]]:
    from tvm import relax

    for block in function.body.blocks:
        for binding in block.bindings:
            if isinstance(binding, relax.MatchCast):
                raise NotStandaloneError("a shape is matched while the program runs")
            yield binding.var, binding.value


def _operator(value: Any) -> str:
    """The name of the operator of a call, `""` for anything else."""
    import tvm

    return str(getattr(value.op, "name", getattr(value.op, "name_hint", value.op))) if isinstance(value, tvm.ir.Call) else ""


def _shape(of: Any) -> tuple[Size, ...]:
    return tuple(constant(size) for size in of.shape)


def _dtype(of: Any) -> str:
    return str(of.dtype)


def _bytes(shape: Sequence[Size], dtype: str) -> Size:
    import tvm
    from tvm import tirx

    each = 1 if dtype == "bool" else tvm.DataType(dtype).itemsize
    if all(isinstance(s, int) for s in shape):
        return math.prod(shape) * each
    return constant(math.prod(shape, start=tirx.IntImm("int64", each)))


def _flat(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else [t for v in value for t in _flat(v)]
