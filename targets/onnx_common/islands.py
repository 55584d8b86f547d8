"""Islands: which nodes must stay in float32, by what rounding does to each of them on the samples.

The float32 model runs in ONNX Runtime with every value as an output. Then each node runs alone, on its own float32 inputs
rounded to half precision, and its result is rounded too. What is far from the float32 result, or no number, stays. An operator
between two roundings is what a device computes that accumulates in float32.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgecc.ir.dtypes import dtype_name
from edgecc.pipeline.context import Sample
from edgecc.reference import to_numpy
from edgecc.targeting.agreement import NEAR
from edgecc.targets.onnx_common.graph import QDQ
from edgecc.targets.onnx_common.runtime import OnnxRuntimeRunner
from edgecc.targets.onnx_common.write import MODEL, write

#: Roundings that the error of one node may amount to: beyond, its operands cancel, or it amplifies them.
AMPLIFIED = 16
#: Magnitudes from here on stand for infinity: no activation has them, masks do (-1e9, -3.4e38, -inf).
SENTINEL = 1e8
#: What takes their place in float16: far below every score, and the sum of two is still a number.
MASKED = 3e4
_COMPARISONS = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "IsInf", "IsNaN")
_MEANS = ("ReduceMean", "GlobalAveragePool")
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class _Error:
    """`why`: what breaks a bound, `""` where nothing does; `from_inputs`: whether more digits of the inputs would mend it."""

    why: str = ""
    from_inputs: bool = False


def find(model: Any, to: torch.dtype, names: Sequence[str], samples: Sequence[Sample]) -> dict[str, str]:
    """The reason by the name of each node that stays in float32, in the order of the graph. Without samples, none is measured.

    A node whose error comes from its inputs takes their producers with it; a pair of Q and DQ has one type.
    """
    opset = model.graph.opset_imports[""]
    candidates = [n for n in model.graph if capable(n, opset, to)]
    kept = {n.name: f"opset {opset} has no {n.op_type} of {dtype_name(to)}" for n in model.graph if _floats(n) and n not in candidates}
    kept |= {n.name: f"it compares with a number that {dtype_name(to)} has not" for n in candidates if _compares_beyond(n, to)}
    for sample in samples:
        given = {name: to_numpy(t) for name, t in zip(names, sample, strict=True)}
        for node, error in _measure(model, candidates, to, given):
            kept.setdefault(node.name, error.why)
            for source in [v.producer() for v in node.inputs if error.from_inputs and v is not None]:
                if source is not None and source in candidates:
                    kept.setdefault(source.name, f"{node.name} needs more digits of it: {error.why}")
    for node in [n for n in candidates if n.name in kept and n.op_type in QDQ]:
        for other in [n for n, k in node.inputs[1].uses() if k == 1 and n.op_type in QDQ]:
            kept.setdefault(other.name, f"it has the scale of {node.name}, which stays")
    return {n.name: kept[n.name] for n in model.graph if n.name in kept}


def capable(node: Any, opset: int, to: torch.dtype) -> bool:
    """Whether ONNX lets the node have this type: by its schema, and not by an attribute that names one."""
    import onnx

    if not _floats(node) or node.domain not in ("", "ai.onnx") or "dtype" in node.attributes or not onnx.defs.has(node.op_type):
        return False
    if node.op_type == "Cast":
        return True
    schema = onnx.defs.get_schema(node.op_type, opset)
    wanted = f"tensor({'float16' if to is torch.float16 else 'bfloat16'})"
    ports = [(formal, v) for formal, v in _ports(schema.outputs, node.outputs) if v.dtype is not None and v.dtype.name == "FLOAT"]
    reads = [(formal, v) for formal, v in _ports(schema.inputs, node.inputs) if v.dtype is not None and v.dtype.name == "FLOAT"]
    generic = [formal for formal, _ in reads if not formal.type_str.startswith("tensor(")]
    return bool(generic) and all(wanted in formal.types for formal in (*generic, *(f for f, _ in ports)))


def _floats(node: Any) -> list[Any]:
    """The float32 values that the node computes with; a Cast takes them from any type."""
    ends = node.outputs if node.op_type == "Cast" else (*node.inputs, *node.outputs)
    return [v for v in ends if v is not None and v.dtype is not None and v.dtype.name == "FLOAT"]


def half_inputs(node: Any, opset: int) -> set[int]:
    """The float inputs that have the type of the node; scales of Resize, for one, are float32 always."""
    import onnx

    if node.op_type == "Cast":
        return set()
    formals = onnx.defs.get_schema(node.op_type, opset).inputs
    return {
        index
        for index, v in enumerate(node.inputs)
        if v is not None
        and v.dtype is not None
        and v.dtype.name == "FLOAT"
        and not formals[min(index, len(formals) - 1)].type_str.startswith("tensor(")
    }


def _ports(formals: Any, values: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    """Each value with its place in the schema, the last of which may stand for many."""
    for index, value in enumerate(values):
        if value is not None and formals:
            yield formals[min(index, len(formals) - 1)], value


def clamped(numbers: Array, most: float) -> Array:
    """What stands for infinity as a number of this magnitude, all else as it is."""
    return np.where(np.abs(numbers) > SENTINEL, np.sign(numbers) * most, numbers).astype(numbers.dtype)


def _compares_beyond(node: Any, to: torch.dtype) -> bool:
    if node.op_type not in _COMPARISONS:
        return False
    held = [v.const_value.numpy() for v in node.inputs if v is not None and v.const_value is not None and v.dtype.name == "FLOAT"]
    return any(bool((np.abs(a) > torch.finfo(to).max).any()) for a in held)


def _measure(model: Any, nodes: Sequence[Any], to: torch.dtype, given: dict[str, Array]) -> Iterator[tuple[Any, _Error]]:
    """The nodes that break a bound on one sample."""
    values = given | _run_open(model, nodes, given)
    read = {v.name: v for n in nodes for v in n.inputs if v is not None and v.const_value is None}
    rounded = _run_apart(nodes, model, {name: _round(_mild(values[name], to), to) for name in read}, to)
    for node in nodes:
        first = node.inputs[0]
        for result in [v for v in node.outputs if v.name in rounded]:
            want = values[result.name]
            terms = values[first.name].size // max(want.size, 1) if first is not None and first.name in values else 1
            error = _compare(node, terms, want, _round(rounded[result.name], to), to)
            if error.why:
                yield node, error
                break


def _run_open(model: Any, nodes: Sequence[Any], given: dict[str, Array]) -> dict[str, Array]:
    """Every value that these nodes read or make, by the float32 model."""
    graph = model.graph
    ends = list(graph.outputs)
    wanted = [v for n in nodes for v in (*n.inputs, *n.outputs) if v is not None and v.name and v.producer() is not None]
    graph.outputs.extend(v for v in dict.fromkeys(wanted) if v not in ends)
    try:
        return _run(model, given)
    finally:
        graph.outputs.clear()
        graph.outputs.extend(ends)


def _run_apart(nodes: Sequence[Any], model: Any, given: dict[str, Array], to: torch.dtype) -> dict[str, Array]:
    """Results of each node alone: what it reads of others is an input of the model."""
    import onnx_ir as ir

    inputs: dict[str, Any] = {}
    weights: dict[str, Any] = {}
    copies = []
    for node in nodes:
        taken = [_stand_in(v, inputs, weights, to) for v in node.inputs]
        copy = ir.Node("", node.op_type, taken, list(node.attributes.values()), num_outputs=len(node.outputs), name=node.name)
        for old, new in zip(node.outputs, copy.outputs, strict=True):
            new.name, new.type, new.shape = old.name, old.type, old.shape
        copies.append(copy)
    results = [v for n in copies for v in n.outputs if v.name]
    opsets = dict(model.graph.opset_imports)
    graph = ir.Graph(list(inputs.values()), results, nodes=copies, initializers=list(weights.values()), opset_imports=opsets, name="apart")
    return _run(ir.Model(graph, ir_version=model.ir_version), {v.name: given[name] for name, v in inputs.items()})


def _stand_in(value: Any, inputs: dict[str, Any], weights: dict[str, Any], to: torch.dtype) -> Any:
    import onnx_ir as ir

    if value is None:
        return None
    if value.const_value is None:
        return inputs.setdefault(value.name, ir.Value(name=f"{value.name}/given", type=value.type, shape=value.shape))
    if value.name not in weights:
        source = value.const_value

        def made() -> Any:
            return ir.Tensor(_round(_mild(source.numpy(), to), to), name=value.name)

        held = ir.LazyTensor(made, dtype=value.dtype, shape=source.shape, name=value.name) if value.dtype.name == "FLOAT" else source
        weights[value.name] = ir.Value(name=value.name, type=value.type, shape=value.shape, const_value=held)
    return weights[value.name]


def _run(model: Any, given: dict[str, Array]) -> dict[str, Array]:
    with tempfile.TemporaryDirectory() as folder:
        write(model.clone(), Path(folder))  # what is written need not keep its types
        return OnnxRuntimeRunner(Path(folder, MODEL), 1).run(given)


def _mild(numbers: Array, to: torch.dtype) -> Array:
    """As float16 will have it: what stands for infinity is a number there. bfloat16 has the range of float32."""
    return clamped(numbers, MASKED) if to is torch.float16 and numbers.dtype == np.float32 else numbers


def _round(numbers: Array, to: torch.dtype) -> Array:
    if numbers.dtype != np.float32:
        return numbers
    found: Array = torch.from_numpy(np.ascontiguousarray(numbers)).to(to).float().numpy().reshape(numbers.shape)
    return found


def _compare(node: Any, terms: int, want: Array, got: Array, to: torch.dtype) -> _Error:
    """`terms`: elements of the first input for each of the result."""
    if node.op_type == "QuantizeLinear":
        near = float((np.abs(want.astype(np.int32) - got.astype(np.int32)) <= 1).mean()) if want.size else 1.0
        return _Error("" if near >= NEAR else f"{1 - near:.2%} of its integers move by more than a step")
    if want.dtype != np.float32:
        return _Error("" if np.array_equal(want, got) else "rounding changes what it decides", True)
    ordinary = np.abs(want) <= SENTINEL  # neither masked nor NaN
    a, b = want[ordinary].astype(np.float64), got[ordinary].astype(np.float64)
    name, most = dtype_name(to), torch.finfo(to).max
    if not np.isfinite(b).all():
        return _Error(f"it reaches {np.abs(a).max():.3g}, and {name} {most:.3g}")
    largest = float(np.abs(a).max()) * terms if node.op_type in _MEANS and a.size else 0.0
    if largest > most:
        return _Error(f"the sum of its {terms} numbers reaches {largest:.3g}, and {name} {most:.3g}")
    return _Error(*_far(a, b, to))


def _far(a: Array, b: Array, to: torch.dtype) -> tuple[str, bool]:
    signal, noise = float(np.linalg.norm(a)), float(np.linalg.norm(a - b))
    bound = AMPLIFIED * torch.finfo(to).eps / 2
    if noise <= bound * signal:
        return "", False
    return f"its error is {noise / signal:.2%} of it, the bound {bound:.2%}" if signal else "its zeros become other numbers", True
