"""Small ONNX models written node by node, and the rules that they break."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgecc.targets.tensorrt.lint import lint

TYPES = {
    "f32": TensorProto.FLOAT,
    "f16": TensorProto.FLOAT16,
    "f64": TensorProto.DOUBLE,
    "i64": TensorProto.INT64,
    "i32": TensorProto.INT32,
}
TYPES |= {"i8": TensorProto.INT8, "u8": TensorProto.UINT8, "bool": TensorProto.BOOL, "i4": TensorProto.INT4, "f4": TensorProto.FLOAT4E2M1}
SCALE, ZERO = np.float32(0.05), np.int8(0)


class Model:
    """Inputs are `name=(type, sizes)`. `op` and `weight` return the name of what they make."""

    def __init__(self, opset: int = 20, **inputs: tuple[str, Sequence[int | str | None] | None]) -> None:
        self.opset = opset
        self.inputs = [helper.make_tensor_value_info(n, TYPES[t], sizes) for n, (t, sizes) in inputs.items()]
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.functions: list[onnx.FunctionProto] = []
        self.domains: dict[str, int] = {}

    def op(
        self, operator: str, *inputs: str, outputs: int | Sequence[str] = 1, name: str | None = None, domain: str = "", **attrs: Any
    ) -> str:
        label = f"{operator.lower()}_{len(self.nodes)}"
        made = [f"{label}_out{i}" for i in range(outputs)] if isinstance(outputs, int) else list(outputs)
        self.nodes.append(helper.make_node(operator, inputs, made, name=label if name is None else name, domain=domain, **attrs))
        if domain:
            self.domains[domain] = 1
        return made[0]

    def weight(self, name: str, value: Any, kind: str | None = None) -> str:
        tensor = (
            helper.make_tensor(name, TYPES[kind], np.shape(value), np.ravel(value))
            if kind
            else numpy_helper.from_array(np.asarray(value), name)
        )
        self.weights.append(tensor)
        return name

    def q(self, x: str, scale: Any = SCALE, zero: Any = ZERO, **attrs: Any) -> str:
        n = len(self.nodes)
        zeros = [self.weight(f"q{n}_zero", zero)] if zero is not None else []
        return self.op("QuantizeLinear", x, self.weight(f"q{n}_scale", scale), *zeros, **attrs)

    def dq(self, x: str, scale: Any = SCALE, zero: Any = ZERO, **attrs: Any) -> str:
        n = len(self.nodes)
        zeros = [self.weight(f"dq{n}_zero", zero)] if zero is not None else []
        return self.op("DequantizeLinear", x, self.weight(f"dq{n}_scale", scale), *zeros, **attrs)

    def qdq(self, x: str, scale: Any = SCALE, zero: Any = ZERO) -> str:
        return self.dq(self.q(x, scale, zero), scale, zero)

    def quantized_weight(self, name: str, *sizes: int, axis: int) -> str:
        """An int8 weight and its DQ with a scale for each index of `axis`."""
        scales = np.full(sizes[axis], 0.02, np.float32)
        return self.dq(self.weight(name, np.ones(sizes, np.int8)), scales, np.zeros(sizes[axis], np.int8), axis=axis)

    def proto(self, *outputs: str | tuple[str, str, Sequence[int | str | None] | None]) -> onnx.ModelProto:
        """Outputs by name (their types are inferred from nothing: float32 of unknown sizes) or with type and sizes."""
        infos = [o if isinstance(o, tuple) else (o, "f32", None) for o in outputs]
        graph = helper.make_graph(
            self.nodes, "crafted", self.inputs, [helper.make_tensor_value_info(n, TYPES[t], s) for n, t, s in infos], self.weights
        )
        imports = [helper.make_opsetid("", self.opset), *(helper.make_opsetid(d, v) for d, v in self.domains.items())]
        return helper.make_model(graph, opset_imports=imports, functions=self.functions, ir_version=11)

    def save(self, folder: Path, *outputs: Any) -> Path:
        file = folder / "model.onnx"
        file.write_bytes(self.proto(*outputs).SerializeToString())
        return file


def broken(file: Path, profile: str = "10.15") -> list[str]:
    """Identifiers of the rules that a file breaks, each once, with its gravest severity: `E Q01`."""
    severities: dict[str, str] = {}
    for finding in lint(file, profile).findings:
        severities[finding.rule] = min(severities.get(finding.rule, "W"), finding.severity)
    return [f"{severity} {rule}" for rule, severity in severities.items()]
