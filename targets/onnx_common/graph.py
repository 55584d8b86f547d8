"""Graph: the ONNX graph under construction, its constants, and where each node came from.

Every value knows its dtype and its sizes, ints where static and expressions over the symbols of the inputs elsewhere.
Equal nodes are made once, so that what several calls need, a shape or a mask, is computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from edgecc.ir import provenance
from edgecc.ir.dtypes import dtype_name
from edgecc.ir.fake import size_expression
from edgecc.ir.ops import operator_name
from edgecc.ir.program import Program
from edgecc.targets.onnx_common.sizes import broadcast, dimension_text

Value = Any  # onnx_ir.Value
Size = Any  # int, or a sympy expression over symbols
#: What stands at every input of a quantized operator, whose origin is theirs: at one more each they would outweigh small weights.
QDQ = ("QuantizeLinear", "DequantizeLinear")
#: The least version of the file format that has an opset. onnx.helper.OP_SET_ID_VERSION_MAP
IR_VERSIONS = {17: 8, 18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11, 24: 12}

_BITS = {torch.bfloat16: torch.int16, torch.float8_e4m3fn: torch.uint8}  # what numpy has not, as what has their bits


class Graph:
    """Values, initializers and nodes of one model. `at` is the call being lowered, which every new node is named after."""

    def __init__(self, program: Program, opset: int) -> None:
        self.program, self.opset = program, opset
        self.at: fx.Node | None = None
        self.nodes: list[Any] = []
        self.inputs: list[Value] = []
        self._sizes: dict[Value, list[Size]] = {}
        self._made: dict[Any, list[Value]] = {}
        self._tensors: dict[Value, torch.Tensor] = {}
        self._initializers: dict[Any, Value] = {}
        self._turned: dict[Value, tuple[Value, list[int]]] = {}
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
        value.shape = ir.Shape([s if isinstance(s, int) else dimension_text(s, self._dims) for s in sizes])
        self._sizes[value] = list(sizes)

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
        array = (made.view(_BITS[made.dtype]) if made.dtype in _BITS else made).numpy()
        key = dtype, tuple(made.shape), array.tobytes()
        if key in self._initializers:
            return self._initializers[key]
        short = (
            [str(v) for v in (made.float() if made.dtype in _BITS else made).flatten().numpy()]
            if made.numel() <= 4
            else [str(self.at.name if self.at else "")]
        )
        return self._initializer(key, self.free(".".join(filter(None, [name or "constant", dtype_name(dtype), *short]))), made)

    def _initializer(self, key: Any, name: str, tensor: torch.Tensor) -> Value:
        import onnx_ir as ir

        value = ir.Value(name=name, const_value=ir.tensor_adapters.TorchTensor(tensor, name=name))
        self.describe(value, tensor.dtype, list(tensor.shape))
        self._tensors[value] = tensor
        self._initializers[key] = value
        return value

    def packed_tensor(self, source: Value, kind: str, factor: float = 1) -> Value:
        """The numbers of an initializer, times a factor, in a type that PyTorch has not, such as INT4."""
        import onnx_ir as ir

        key = kind, source
        if key not in self._initializers:
            dtype, name = ir.DataType[kind], self.free(f"{source.name}.{kind.lower()}")
            value = ir.Value(
                name=name, const_value=ir.Tensor((self._tensors[source].numpy() * factor).astype(dtype.numpy()), dtype=dtype, name=name)
            )
            value.type, value.shape = ir.TensorType(dtype), ir.Shape(self._sizes[source])
            self._sizes[value] = self._sizes[source]
            self._initializers[key] = value
        return self._initializers[key]

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
        """A node with results of these dtypes and sizes. An attribute of None is left out; `domain::kind` is not ONNX's own."""
        import onnx_ir as ir

        given = {k: v for k, v in sorted(attributes.items()) if v is not None}
        key = kind, inputs, len(results), repr(given)
        if key in self._made:
            return self._made[key]
        assert self.at is not None
        domain, _, operator = kind.rpartition("::")
        name = self.free(f"{self.at.name}/{operator}")
        node = ir.Node(
            domain,
            operator,
            _without_trailing_none(inputs),
            ir.convenience.convert_attributes(given),
            num_outputs=len(results),
            name=name,
            doc_string=None if operator in QDQ else provenance.describe(self.at) or None,
            metadata_props={} if operator in QDQ else _origin(self.at),
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
        opsets = {"": self.opset} | {node.domain: 1 for node in self.nodes if node.domain}
        graph = ir.Graph(self.inputs, results, nodes=self.nodes, initializers=initializers, opset_imports=opsets, name="model")
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
    """Where a node comes from; the call itself is in its name."""
    found = {
        "edgecc.module": provenance.module_path(node),
        "edgecc.operator": operator_name(node.target),
        "edgecc.source": provenance.source_line(node),
    }
    return {key: text for key, text in found.items() if text}
