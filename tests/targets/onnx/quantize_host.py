"""Quantize a program as a calibrator would, min-max scales at the clean places, and run it in PyTorch and in ONNX Runtime.

Clean: the inputs of what multiplies by weights, the weights themselves per output channel, and what a convolution is added to.
Masks, biases, attention and everything else stay in floating point.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import fx

from edgecc.ir.program import Program
from edgecc.ir.quantized import quantized
from edgecc.pipeline import manager
from edgecc.pipeline.context import PassContext
from edgecc.pipeline.spec import parse
from edgecc.registry import Registry
from edgecc.targeting import support
from edgecc.targets.onnx_common.runtime import OnnxRuntimeRunner

aten = torch.ops.aten
CONVOLUTIONS = (aten.conv1d.default, aten.conv2d.default, aten.conv2d.padding)
TRANSPOSED = (aten.conv_transpose2d.input,)
WEIGHTED = (aten.linear.default, *CONVOLUTIONS, *TRANSPOSED)
INT8 = (-128, 127, torch.int8)
NARROW = (-127, 127, torch.int8)


class Recorder(fx.Interpreter):
    """Runs a program and keeps what every node gives; `given` is what others read of a node instead of its own value."""

    def __init__(self, program: Program, inputs: Sequence[torch.Tensor], given: Mapping[str, torch.Tensor] | None = None) -> None:
        program.recompile()
        super().__init__(program.module, garbage_collect_values=False)
        self.values: dict[str, Any] = {}
        self._given = given or {}
        with torch.no_grad():
            self.results = self.run(*inputs)

    def run_node(self, n: fx.Node) -> Any:
        self.values[n.name] = super().run_node(n)
        return self._given.get(n.name, self.values[n.name])


def quantize(program: Program, *inputs: torch.Tensor) -> int:
    """Insert q/dq in place, scales from these inputs; how many activations were quantized."""
    values = Recorder(program, inputs).values
    pairs: dict[fx.Node, fx.Node] = {}
    for node in program.calls(*WEIGHTED):
        x, weight = node.args[:2]
        axis = 1 if node.target in TRANSPOSED else 0
        node.args = (_activation(program, node, x, values, pairs), _weight(program, node, weight, axis, pairs), *node.args[2:])
    for node in program.calls(aten.add.Tensor):
        products = [a for a in node.args if isinstance(a, fx.Node) and a.target in CONVOLUTIONS]
        if products and len(products) < 2:
            node.args = tuple(a if a in products else _activation(program, node, a, values, pairs) for a in node.args)
    return sum(p.target is quantized.dequantize_per_tensor.default for p in pairs.values())


def _activation(program: Program, before: fx.Node, x: Any, values: dict[str, Any], pairs: dict[fx.Node, fx.Node]) -> fx.Node:
    if x not in pairs:
        scale = max(float(values[x.name].abs().max()) / 127, 1e-8)
        q = program.call_before(before, quantized.quantize_per_tensor.default, x, scale, 0, *INT8)
        pairs[x] = program.call_before(before, quantized.dequantize_per_tensor.default, q, scale, 0, *INT8)
    return pairs[x]


def _weight(program: Program, before: fx.Node, weight: Any, axis: int, pairs: dict[fx.Node, fx.Node]) -> fx.Node:
    if weight not in pairs:
        held = program.weight(weight)
        scales = (held.abs().amax([k for k in range(held.dim()) if k != axis]) / 127).clamp(min=1e-8)
        scale = program.add_weight(f"{weight.target}_scale", scales, weight)
        zero_point = program.add_weight(f"{weight.target}_zero_point", torch.zeros(len(scales), dtype=torch.int64), weight)
        q = program.call_before(before, quantized.quantize_per_channel.default, weight, scale, zero_point, axis, *NARROW)
        pairs[weight] = program.call_before(before, quantized.dequantize_per_channel.default, q, scale, zero_point, axis, *NARROW)
    return pairs[weight]


def optimized(program: Program, target: Any, pipeline: str = "") -> Program:
    """The program after the target's passes, or others, in place."""
    manager.run(parse(pipeline or target.pipeline(), Registry.create().passes), program, PassContext([program.examples]), [])
    return program


def written(program: Program, target: Any, folder: Path) -> Path:
    """The model file that a target writes of a program, which it must not refuse."""
    folder.mkdir(parents=True, exist_ok=True)
    support.check(program, target.capabilities(), target.name)
    target.lower(program, folder, PassContext())
    return folder / "model.onnx"


def exposed(file: Path) -> tuple[Path, dict[str, Any]]:
    """The model with every quantized activation as an output too, and the zero point of each."""
    model = onnx.load(file)
    held = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    zeros = {}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            zeros[node.output[0]] = held[node.input[2]]
            kind = onnx.helper.np_dtype_to_tensor_dtype(held[node.input[2]].dtype)
            model.graph.output.append(onnx.helper.make_tensor_value_info(node.output[0], kind, None))
    changed = file.with_name("exposed.onnx")
    onnx.save(model, changed)
    return changed, zeros


@dataclass(frozen=True)
class Agreement:
    """Of every activation that ONNX Runtime quantizes, against PyTorch given the same integers before it: the part that is
    equal and that is within one step. The least cosine of the outputs, given the same integers and end to end.
    """

    equal: float
    near: float
    output: float
    whole: float


def agreement(program: Program, file: Path, inputs: Sequence[torch.Tensor]) -> Agreement:
    """Compare call by call: a number on the edge of two steps goes either way, and every one that does moves all after it."""
    changed, zeros = exposed(file)
    fed = {s.name: i.numpy() for s, i in zip(program.signature.inputs, inputs, strict=True)}
    found = OnnxRuntimeRunner(changed, 1).run(fed)
    integers = {name: torch.from_numpy(found[name].astype(np.int32) - int(zero)).to(torch.int8) for name, zero in zeros.items()}
    forced = Recorder(program, inputs, integers)
    apart = torch.cat([(forced.values[name].int() - value.int()).abs().flatten() for name, value in integers.items()])
    ends = OnnxRuntimeRunner(file, 1).run(fed)
    names = [s.name for s in program.signature.outputs]
    return Agreement(
        float((apart == 0).float().mean()),
        float((apart <= 1).float().mean()),
        min(cosine(found[n], v) for n, v in zip(names, forced.results, strict=True)),
        min(cosine(ends[n], v) for n, v in zip(names, program(*inputs), strict=True)),
    )


def cosine(a: Any, b: Any) -> float:
    a, b = (np.asarray(v, np.float64).reshape(-1) for v in (a, b))
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
