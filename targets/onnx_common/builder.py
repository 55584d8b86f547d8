"""Builder: the ONNX graph under construction, its constants, and where each node came from.

Every value knows its dtype and its sizes, ints where static and expressions over the symbols of the inputs elsewhere.
Equal nodes are made once, so that what several calls need, a shape or a mask, is computed once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx

from edgecc.ir import provenance
from edgecc.ir.dtypes import dtype_name
from edgecc.ir.fake import size_expression
from edgecc.ir.ops import operator_name
from edgecc.ir.program import Program
from edgecc.targets.onnx_common.sizes import Shapes, broadcast, constant_shape, same_sizes

Value = Any  # onnx_ir.Value
Size = Any  # int, or a sympy expression over symbols
_LAST = np.iinfo(np.int64).max
#: The least version of the file format that has an opset. onnx.helper.OP_SET_ID_VERSION_MAP
IR_VERSIONS = {17: 8, 18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11, 24: 12}


class Builder:
    """What handlers build with. `at` is the call being lowered, which every new node is named after.

    `attention`: whether attention may become the operator of that name, where the opset has it.
    """

    def __init__(self, program: Program, opset: int, *, attention: bool = False) -> None:
        self.program, self.opset, self.attention = program, opset, attention
        self.at: fx.Node | None = None
        self.nodes: list[Any] = []
        self.inputs: list[Value] = []
        self.shapes = Shapes(self)
        self._sizes: dict[Value, list[Size]] = {}
        self._made: dict[Any, list[Value]] = {}
        self._tensors: dict[Value, torch.Tensor] = {}
        self._initializers: dict[Any, Value] = {}
        self._turned: dict[Value, tuple[Value, list[int]]] = {}
        self._grown: dict[Value, tuple[Value, list[int]]] = {}
        signature = program.signature
        self._dims = {d.symbol: d.name for d in signature.dims}
        self._names = {s.name for s in (*signature.inputs, *signature.outputs)} | set(program.weights())

    # -- values

    def dtype(self, x: Value) -> torch.dtype:
        from onnx_ir import tensor_adapters

        return tensor_adapters.to_torch_dtype(x.dtype)

    def sizes(self, x: Value) -> list[Size]:
        return self._sizes[x]

    def rank(self, x: Value) -> int:
        return len(self._sizes[x])

    def axis(self, dim: int, x: Value) -> int:
        """A dimension counted from the front."""
        return dim % max(self.rank(x), 1)

    def sizes_of(self, tensor: torch.Tensor) -> list[Size]:
        """The sizes of a fake tensor."""
        return [size_expression(s) for s in tensor.shape]

    def describe(self, value: Value, dtype: torch.dtype, sizes: Sequence[Size]) -> None:
        """Give a value its dtype and sizes; a named dimension has its name."""
        import onnx_ir as ir

        value.type = ir.TensorType(ir.tensor_adapters.from_torch_dtype(dtype))
        value.shape = ir.Shape([s if isinstance(s, int) else self.shapes.text(s, self._dims) for s in sizes])
        self._sizes[value] = list(sizes)

    def input(self, name: str, tensor: torch.Tensor) -> Value:
        import onnx_ir as ir

        value = ir.Value(name=name)
        self.describe(value, tensor.dtype, self.sizes_of(tensor))
        self.inputs.append(value)
        self.shapes.define(value)
        return value

    def free(self, name: str) -> str:
        """The name, or the name with the first number that makes it new."""
        found, count = name, 0
        while found in self._names:
            count += 1
            found = f"{name}_{count}"
        self._names.add(found)
        return found

    # -- constants

    def weight(self, node: fx.Node) -> Value:
        """The initializer of a weight node, named as in PyTorch. Tied weights, views of the same memory, are one."""
        tensor = self.program.weight(node)
        key = tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype
        return self._initializers.get(key) or self._initializer(key, str(node.target), tensor)

    def tensor_of(self, x: Value) -> torch.Tensor | None:
        """What an initializer holds, None for a value that is computed."""
        return self._tensors.get(x)

    def derived(self, sources: Sequence[Value], suffix: str, make: Callable[..., torch.Tensor]) -> Value:
        """An initializer made from others, named after the first of them. A transposed view is copied only when written."""
        key = (suffix, *sources)
        if key in self._initializers:
            return self._initializers[key]
        tensor = make(*(self._tensors[s] for s in sources))
        return self._initializer(key, self.free(f"{sources[0].name}.{suffix}"), tensor)

    def constant(self, value: Any, dtype: torch.dtype, name: str = "") -> Value:
        """A number, an array or a tensor as an initializer; equal ones are one."""
        made = value.to(dtype) if isinstance(value, torch.Tensor) else torch.tensor(value, dtype=dtype)
        array = made.numpy()
        key = dtype, tuple(made.shape), array.tobytes()
        if key in self._initializers:
            return self._initializers[key]
        short = [str(v) for v in made.flatten().tolist()] if made.numel() <= 4 else [str(self.at.name if self.at else "")]
        return self._initializer(key, self.free(".".join(filter(None, [name or "constant", dtype_name(dtype), *short]))), made)

    def _initializer(self, key: Any, name: str, tensor: torch.Tensor) -> Value:
        import onnx_ir as ir

        value = ir.Value(name=name, const_value=ir.tensor_adapters.TorchTensor(tensor, name=name))
        self.describe(value, tensor.dtype, list(tensor.shape))
        self._tensors[value] = tensor
        self._initializers[key] = value
        return value

    # -- nodes

    def op(
        self, kind: str, *inputs: Value | None, dtype: torch.dtype | None = None, sizes: Sequence[Size] | None = None, **attributes: Any
    ) -> Value:
        """A node with one result, of the first input's dtype and the broadcast sizes of all inputs where not given."""
        own = [x for x in inputs if x is not None]
        found = broadcast([self.sizes(x) for x in own]) if sizes is None else sizes
        return self.ops(kind, *inputs, results=[(dtype or self.dtype(own[0]), found)], **attributes)[0]

    def ops(
        self, kind: str, *inputs: Value | None, results: Sequence[tuple[torch.dtype, Sequence[Size]]], **attributes: Any
    ) -> list[Value]:
        """A node with results of these dtypes and sizes. An attribute of None is left out."""
        import onnx_ir as ir

        given = {k: v for k, v in sorted(attributes.items()) if v is not None}
        key = kind, inputs, len(results), repr(given)
        if key in self._made:
            return self._made[key]
        assert self.at is not None
        name = self.free(f"{self.at.name}/{kind}")
        node = ir.Node(
            "",
            kind,
            _without_trailing_none(inputs),
            ir.convenience.convert_attributes(given),
            num_outputs=len(results),
            name=name,
            doc_string=provenance.describe(self.at) or None,
            metadata_props=_origin(self.at),
        )
        for i, (value, (dtype, sizes)) in enumerate(zip(node.outputs, results, strict=True)):
            value.name = name if len(results) == 1 else self.free(f"{name}.{i}")
            self.describe(value, dtype, sizes)
        self.nodes.append(node)
        self._made[key] = list(node.outputs)
        return self._made[key]

    def rename(self, value: Value, name: str) -> None:
        """Name the result of a call, and the node that gives it, after the call, where they are not older than it."""
        if value.producer() is not None and value.name.startswith(f"{name}/"):
            value.name = value.producer().name = self.free(name)

    # -- what every family needs

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

    # -- the end

    def model(self, outputs: Sequence[tuple[Value, fx.Node, str]]) -> Any:
        """The onnx_ir.Model with these values as outputs, under these names; what none of them needs is left out."""
        import onnx_ir as ir

        results: list[Value] = []
        for value, self.at, name in outputs:
            if value.producer() is None or value in results:
                self._made.clear()  # two outputs of one value are two copies
                value = self.op("Identity", value)
            value.name = name
            results.append(value)
        self._drop_unused(results)
        self._untie()
        initializers = [v for v in self._initializers.values() if v.uses()]
        graph = ir.Graph(self.inputs, results, nodes=self.nodes, initializers=initializers, opset_imports={"": self.opset}, name="model")
        return ir.Model(graph, ir_version=IR_VERSIONS[self.opset], producer_name="edgecc")

    def _drop_unused(self, results: Sequence[Value]) -> None:
        kept = []
        for node in reversed(self.nodes):
            if any(v.uses() or v in results for v in node.outputs):
                kept.append(node)
                continue
            for k in range(len(node.inputs)):
                node.replace_input_with(k, None)
        self.nodes = kept[::-1]

    def _untie(self) -> None:
        """Transpose a weight at run time where it is also read as it is, so that it is stored once."""
        for turned, (source, order) in self._turned.items():
            if turned.uses() and source.uses():
                self.at = next(n for n in self.program.graph.nodes if n.op == "get_attr" and self.weight(n) is source)
                kept, self.nodes = self.nodes, []
                value = self.op("Transpose", source, perm=order, sizes=[self.sizes(source)[k] for k in order])
                self.nodes += kept
                for user, k in list(turned.uses()):
                    user.replace_input_with(k, value)


def _without_trailing_none(inputs: tuple[Value | None, ...]) -> list[Value | None]:
    kept = list(inputs)
    while kept and kept[-1] is None:
        kept.pop()
    return kept


def _origin(node: fx.Node) -> dict[str, str]:
    found = {
        "edgecc.module": provenance.module_path(node),
        "edgecc.node": node.name,
        "edgecc.operator": operator_name(node.target),
        "edgecc.source": provenance.source_line(node),
    }
    return {key: text for key, text in found.items() if text}
