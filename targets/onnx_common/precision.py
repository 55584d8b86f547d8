"""Precision: a float32 ONNX model made float16 or bfloat16, with casts only at the edges of what stays in float32.

Every tensor has one type and every operator operands of one type, as strongly typed TensorRT networks want it. Weights are
converted when they are written. A number that stands for minus infinity (a mask) is kept inside of float16's range.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from edgecc.diagnostics import Remark
from edgecc.errors import UsageError
from edgecc.ir.dtypes import dtype_name
from edgecc.pipeline.numerics import rounding
from edgecc.targets.onnx_common import islands
from edgecc.targets.onnx_common.graph import QDQ

if TYPE_CHECKING:
    from edgecc.pipeline.context import PassContext

#: The types by the name of the option. fp32 leaves the model as it is.
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_BOUNDS = ("Clip", "Max", "Min")  # operators whose constants limit numbers rather than hide them
_SMALL = 1024  # elements of a constant that is stored twice rather than cast back


def tolerance(precision: str) -> float:
    """The largest difference, over the largest magnitude of an output, that rounding explains."""
    return rounding([PRECISIONS[precision]])


def reduce(model: Any, precision: str, names: list[str], context: PassContext, origin: str, *, float_io: bool) -> dict[str, Any]:
    """Convert an onnx_ir.Model in place, and give the facts of it; what stays in float32, and why, becomes remarks.

    `names` are those of the inputs in the order of the samples. Raises UsageError for a model with control flow.
    """
    _flatten(model)
    to = PRECISIONS[precision]
    kept = islands.find(model, to, names, context.samples)
    for node, why in kept.items():
        context.remarks.add(Remark("note", origin, node, f"stays in float32: {why}"))
    conversion = _Conversion(model, to, kept)
    conversion.run(float_io=float_io)
    for weight, most in conversion.clamped.items():
        message = f"the constant stands for infinity, which is {most:g} in {dtype_name(to)}"
        context.remarks.add(Remark("note", origin, weight, message))
    return {"precision": precision, "float_io": float_io, "float32_nodes": sorted(kept), "casts": conversion.casts}


def limit(model: Any, context: PassContext, origin: str) -> None:
    """Make numbers of what stands for infinity in a model that is float16 already, as `reduce` does; not where it is compared
    for equality.
    """
    import onnx_ir as ir

    for weight in list(model.graph.initializers.values()):
        floats = weight.dtype in (ir.DataType.FLOAT16, ir.DataType.FLOAT) and weight.const_value.size <= _SMALL
        kinds = {n.op_type for n, _ in weight.uses()}
        if not floats or "Equal" in kinds or not np.isinf(weight.const_value.numpy()).any():
            continue
        most = float(np.finfo(np.float16).max) if kinds & set(_BOUNDS) else islands.MASKED
        numbers = islands.clamped(weight.const_value.numpy().astype(np.float32), most)
        weight.const_value = ir.Tensor(numbers.astype(weight.dtype.numpy()), name=weight.name)
        message = f"the constant stands for infinity, which is {most:g} in {dtype_name(torch.float16)}"
        context.remarks.add(Remark("note", origin, weight.name, message))


def _flatten(model: Any) -> None:
    from onnx_ir.passes.common import InlinePass

    if model.functions:
        InlinePass()(model)
    control = [n.name for n in model.graph if any(a.type.name in ("GRAPH", "GRAPHS") for a in n.attributes.values())]
    if control:
        raise UsageError(f"the model has control flow ({', '.join(control)}), which has one precision only", hint="precision=fp32")


class _Conversion:
    """One conversion. `casts` counts the Cast nodes made, `clamped` has the magnitude by the name of a constant."""

    def __init__(self, model: Any, to: torch.dtype, kept: Collection[str]) -> None:
        import onnx_ir as ir

        self.ir, self.graph = ir, model.graph
        self.float, self.half = ir.DataType.FLOAT, ir.tensor_adapters.from_torch_dtype(to)
        self.to, self.limit = to, torch.finfo(to).max
        self.casts = 0
        self.clamped: dict[str, float] = {}
        self._casts: dict[Any, Any] = {}
        self._names = {v.name for n in self.graph for v in n.outputs} | set(self.graph.initializers) | {v.name for v in self.graph.inputs}
        self._halved = {n for n in self.graph if n.name not in kept and islands.capable(n, self.graph.opset_imports[""], to)}
        opset = self.graph.opset_imports[""]
        self._reads = {n: islands.half_inputs(n, opset) if n in self._halved else set() for n in self.graph}

    def run(self, *, float_io: bool) -> None:
        weights = [v for v in self.graph.initializers.values() if v.dtype == self.float]
        results = [v for n in self.graph for v in n.outputs if v.dtype == self.float]
        inputs = [v for v in self.graph.inputs if v.dtype == self.float]
        for value in results:
            self._retype(value, self.half if value.producer() in self._halved else self.float)
        for value in () if float_io else inputs:
            self._retype(value, self.half)
        for weight in weights:
            self._convert_weight(weight)
        for value in (*inputs, *results):
            for node, index in list(value.uses()):
                if node.op_type != "Cast":
                    node.replace_input_with(index, self._as(value, self._wanted(node, index)))
        for index, value in enumerate(self.graph.outputs):
            if value in results:
                self._convert_output(index, value, self.float if float_io else self.half)

    def _wanted(self, node: Any, index: int) -> Any:
        return self.half if index in self._reads[node] else self.float

    def _retype(self, value: Any, dtype: Any) -> None:
        value.type = self.ir.TensorType(dtype)
        node = value.producer()
        if node is not None and node.op_type == "Cast":
            node.attributes["to"] = self.ir.AttrInt64("to", int(dtype))

    def _as(self, value: Any, dtype: Any) -> Any:
        """The value in this type, by one Cast for all that read it so."""
        if value.dtype == dtype:
            return value
        if (value, dtype) not in self._casts:
            self._casts[value, dtype] = self._cast(value, dtype, self._free(f"{value.name}/{dtype.name.lower()}"))
        return self._casts[value, dtype]

    def _cast(self, value: Any, dtype: Any, name: str) -> Any:
        ir, source = self.ir, value.producer()
        origin = dict(source.metadata_props) if source is not None else {}
        cast = ir.Node("", "Cast", [value], [ir.AttrInt64("to", int(dtype))], name=name, metadata_props=origin)
        (result,) = cast.outputs
        result.name, result.type, result.shape = name, ir.TensorType(dtype), value.shape
        if source is not None:
            self.graph.insert_after(source, cast)
        else:
            self.graph.insert_before(self.graph[0], cast)
        self._reads[cast] = set()
        self.casts += 1
        return result

    def _convert_output(self, index: int, value: Any, dtype: Any) -> None:
        if value.dtype == dtype:
            return
        name, value.name = value.name, self._free(f"{value.name}/{value.dtype.name.lower()}")
        self.graph.outputs[index] = self._cast(value, dtype, name)

    def _convert_weight(self, weight: Any) -> None:
        """Half for those that read it so; the others get the float32 numbers, or a Cast of a large weight that fits."""
        halved = [(n, i) for n, i in weight.uses() if self._wanted(n, i) == self.half]
        others = [use for use in weight.uses() if use not in halved]
        if not halved:
            return
        largest = _largest(weight.const_value)
        if others and (weight.const_value.size <= _SMALL or largest > self.limit):
            copy = self.ir.Value(
                name=self._free(f"{weight.name}.f32"), type=weight.type, shape=weight.shape, const_value=weight.const_value
            )
            copy.const_value = self._tensor(str(copy.name), weight.const_value, self.float, None)
            self.graph.register_initializer(copy)
            for node, index in others:
                node.replace_input_with(index, copy)
        most = None
        if largest > self.limit and largest > islands.SENTINEL:
            most = self.limit if any(n.op_type in _BOUNDS for n, _ in halved) else islands.MASKED
            self.clamped[weight.name] = most
        least = torch.finfo(self.to).tiny * torch.finfo(self.to).eps if any(n.op_type in QDQ and i == 1 for n, i in halved) else 0.0
        weight.const_value = self._tensor(weight.name, weight.const_value, self.half, most, least)
        weight.type = self.ir.TensorType(self.half)
        for node, index in [use for use in others if use in list(weight.uses())]:
            node.replace_input_with(index, self._as(weight, self.float))

    def _tensor(self, name: str, source: Any, dtype: Any, most: float | None, least: float = 0.0) -> Any:
        """Converted when it is written, so that no second copy of the weights is held. `least`: a scale below it would become 0."""

        def made() -> Any:
            numbers = source.numpy()
            numbers = islands.clamped(numbers, most) if most else numbers
            numbers = np.maximum(numbers, least) if least else numbers
            with np.errstate(over="ignore"):
                return self.ir.Tensor(numbers.astype(dtype.numpy()), dtype=dtype, name=name)

        return self.ir.LazyTensor(made, dtype=dtype, shape=source.shape, cache=False, name=name)

    def _free(self, name: str) -> str:
        found, count = name, 0
        while found in self._names:
            count += 1
            found = f"{name}_{count}"
        self._names.add(found)
        return found


def _largest(tensor: Any) -> float:
    numbers = tensor.numpy()
    return float(np.abs(numbers).max()) if numbers.size else 0.0
