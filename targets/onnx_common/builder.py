"""Builder: what handlers build with, the few operators that every family needs, made only where they do something."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from edgecc.ir.dtypes import dtype_name
from edgecc.ir.fake import size_expression
from edgecc.ir.program import Program
from edgecc.targets.onnx_common.graph import Graph, Size, Value
from edgecc.targets.onnx_common.sizes import Shapes, constant_shape, same_sizes

__all__ = ["Builder", "Size", "Value"]
_LAST = np.iinfo(np.int64).max


class Builder(Graph):
    """Operators by what they mean; a number, a size or a weight takes the place of a value where it can.

    `attention`: whether attention may become the operator of that name, where the opset has it. `onnxruntime`:
    whether what ONNX Runtime alone has may stand in the file.
    """

    def __init__(self, program: Program, opset: int, *, attention: bool = False, onnxruntime: bool = False) -> None:
        super().__init__(program, opset)
        self.attention = attention
        self.onnxruntime = onnxruntime
        self.shapes = Shapes(self)
        self._grown: dict[Value, tuple[Value, list[int]]] = {}

    def input(self, name: str, tensor: torch.Tensor) -> Value:
        import onnx_ir as ir

        value = ir.Value(name=name)
        self.describe(value, tensor.dtype, self.sizes_of(tensor))
        self.inputs.append(value)
        self.shapes.define(value)
        return value

    def cast(self, x: Value, to: torch.dtype) -> Value:
        """x with values converted as PyTorch does: towards zero to integers, `!= 0` to bool."""
        if self.dtype(x) is to:
            return x
        held = self.tensor_of(x)
        if held is not None and held.numel() <= 1024:
            return self.derived([x], dtype_name(to), lambda t: t.to(to))
        import onnx_ir as ir

        return self.op("Cast", x, dtype=to, to=int(ir.tensor_adapters.from_torch_dtype(to)))

    def tensor(self, value: Any, dtype: torch.dtype) -> Value:
        """A tensor of this dtype: a value cast, a number as a constant of rank 0, a symbolic size computed at run time."""
        if isinstance(value, (bool, int, float)):
            return self.constant(value, dtype)
        if isinstance(value, (torch.SymInt, torch.SymFloat)):
            return self.cast(self.shapes.scalar(size_expression(value)), dtype)  # type: ignore[arg-type]
        return self.cast(value, dtype)

    def binary(self, kind: str, x: Value | float, y: Value | float, **options: Any) -> Value:
        """An operator of two operands; a number becomes a constant of the other operand's dtype."""
        if isinstance(x, (bool, int, float)):
            return self.op(kind, self.constant(x, self.dtype(y)), y, **options)
        return self.op(kind, x, self.constant(y, self.dtype(x)) if isinstance(y, (bool, int, float)) else y, **options)

    def reshape(self, x: Value, sizes: Sequence[Size]) -> Value:
        """x in another shape; nothing where it has it. Sizes are computed at run time only where 0 and -1 do not say them."""
        if same_sizes(self.sizes(x), sizes):
            return x
        held = self.tensor_of(x)
        if held is not None:
            return self.derived([x], "x".join(["reshaped", *map(str, sizes)]), lambda t: t.reshape([int(s) for s in sizes]))
        shape = constant_shape(self.sizes(x), sizes)
        return self.op("Reshape", x, self.shapes.vector(shape), sizes=sizes)

    def expand(self, x: Value, sizes: Sequence[Size]) -> Value:
        """x broadcast to these sizes; axes that stay are 1 in the shape given to Expand."""
        if same_sizes(self.sizes(x), sizes):
            return x
        own = [1] * (len(sizes) - self.rank(x)) + self.sizes(x)
        return self.op("Expand", x, self.shapes.vector([1 if a == b else b for a, b in zip(own, sizes, strict=True)]), sizes=sizes)

    def transpose(self, x: Value, order: Sequence[int]) -> Value:
        """x with its axes in this order. A transposition of a transposition is one."""
        producer = x.producer()
        if producer is not None and producer.op_type == "Transpose":
            inner = list(producer.attributes["perm"].as_ints())
            return self.transpose(producer.inputs[0], [inner[k] for k in order])
        if list(order) == list(range(len(order))):
            return x
        if self.tensor_of(x) is not None:
            suffix = "transposed" if list(order) == [1, 0] else "_".join(["transposed", *map(str, order)])
            turned = self.derived([x], suffix, lambda t: t.permute(*order))
            self._turned[turned] = x, list(order)
            return turned
        return self.op("Transpose", x, perm=list(order), sizes=[self.sizes(x)[k] for k in order])

    def swap(self, x: Value, first: int, second: int) -> Value:
        """x with two axes exchanged."""
        order = list(range(self.rank(x)))
        order[first], order[second] = order[second], order[first]
        return self.transpose(x, order)

    def unsqueeze(self, x: Value, axes: Sequence[int]) -> Value:
        """x with axes of size 1 at these positions of the result. An Unsqueeze of an Unsqueeze is one."""
        sizes = list(self.sizes(x))
        for axis in sorted(axes):
            sizes.insert(axis, 1)
        if self.tensor_of(x) is not None:
            return self.reshape(x, sizes)
        source, inner = self._grown.get(x, (x, []))
        others = [k for k in range(len(sizes)) if k not in axes]
        both = sorted([*axes, *(others[k] for k in inner)])
        grown = self.op("Unsqueeze", source, self.shapes.vector(both), sizes=sizes)
        self._grown[grown] = source, both
        return grown

    def squeeze(self, x: Value, axes: Sequence[int]) -> Value:
        """x without these axes of size 1."""
        sizes = [s for k, s in enumerate(self.sizes(x)) if k not in axes]
        return x if not axes else self.op("Squeeze", x, self.shapes.vector(list(axes)), sizes=sizes)

    def slice(self, x: Value, axis: int, start: Size, end: Size, sizes: Sequence[Size], step: int = 1) -> Value:
        """`x[start:end:step]` along an axis, with the result's sizes; an `end` of None is behind the last element."""
        if same_sizes(self.sizes(x), sizes) and step == 1:
            return x
        ends = self.shapes.vector([_LAST if end is None else end])
        options = [self.shapes.vector([axis]), *([] if step == 1 else [self.shapes.vector([step])])]
        return self.op("Slice", x, self.shapes.vector([start]), ends, *options, sizes=sizes)

    def concat(self, parts: Sequence[Value], axis: int) -> Value:
        if len(parts) == 1:
            return parts[0]
        sizes = list(self.sizes(parts[0]))
        sizes[axis] = sum((self.sizes(p)[axis] for p in parts[1:]), sizes[axis])
        return self.op("Concat", *parts, axis=axis, sizes=sizes)

    def gather(self, x: Value, indices: Value, axis: int) -> Value:
        """Whole slices of x along `axis` at integer positions of any shape. ONNX Gather: a negative one counts from the end."""
        own = self.sizes(x)
        return self.op("Gather", x, indices, axis=axis or None, sizes=[*own[:axis], *self.sizes(indices), *own[axis + 1 :]])

    def reduce(self, kind: str, x: Value, axes: Sequence[int], keep: bool) -> Value:
        """A reduction over axes; of no axes it is x. The axes are an input since opset 18, of ReduceSum since 13."""
        if not axes:
            return x
        own = self.sizes(x)
        sizes = [1 if k in axes else s for k, s in enumerate(own) if keep or k not in axes]
        keepdims = None if keep else 0
        if self.opset >= 18 or kind == "ReduceSum":
            return self.op(kind, x, self.shapes.vector(list(axes)), keepdims=keepdims, sizes=sizes)
        return self.op(kind, x, axes=list(axes), keepdims=keepdims, sizes=sizes)

    def count(self, x: Value, axes: Iterable[int]) -> Size:
        """The number of elements over some axes."""
        return math.prod(self.sizes(x)[a] for a in axes)
