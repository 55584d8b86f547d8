"""Layers: what quantization made of every contraction of a program, against the same program in floating point."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import fx

from edgecc.analysis.cost import macs
from edgecc.ir.ops import bound_arguments, operator_name
from edgecc.ir.program import Program
from edgecc.ir.provenance import module_path
from edgecc.ir.quantized import is_dequantize, quantized
from edgecc.pipeline.context import Sample
from edgecc.quantization import operators as ops
from edgecc.quantization.affine import TINY
from edgecc.quantization.ranges import QuantizedRun

#: How many samples both programs are run on.
SAMPLES = 4


@dataclass(frozen=True)
class Layer:
    """`weight_bits` and `activation_bits` are None for floating point. `low`, `high`: the calibrated range of the input, None
    for a computed one. `saturated`: share of the input's numbers outside of it on the samples. `sqnr_db`: of the output, with
    all that came before it quantized, None where it is equal. `bytes`: of the weight with scales and zero points.
    """

    name: str
    operator: str
    weight_bits: int | None
    activation_bits: int | None
    low: float | None
    high: float | None
    saturated: float | None
    sqnr_db: float | None
    macs: int
    bytes: int
    float_bytes: int


@dataclass(frozen=True)
class Summary:
    """`bytes`: of all weights that the program holds, `float_bytes` of what it held before."""

    layers: tuple[Layer, ...]
    bytes: int
    float_bytes: int

    @property
    def integer_share(self) -> float:
        """The share of multiply-accumulates whose operands are both integers."""
        total = sum(n.macs for n in self.layers)
        done = sum(n.macs for n in self.layers if n.weight_bits is not None and n.activation_bits is not None)
        return done / total if total else 0.0

    def as_dict(self) -> dict[str, Any]:
        return {
            "integer_mac_share": round(self.integer_share, 6),
            "weight_bytes": self.bytes,
            "float_weight_bytes": self.float_bytes,
            "layers": [asdict(n) for n in self.layers],
        }


def summarize(before: Program, after: Program, samples: Sequence[Sample]) -> Summary:
    """Compare by node name. `before` is in floating point, `after` has q/dq operators."""
    contractions = after.calls(*ops.CONTRACTIONS, *ops.RECURRENCES, ops.ATTENTION)
    sources = {n.name: _input(n) for n in contractions}
    noise = _Noise(before, after, samples, [n.name for n in contractions], [s.name for s in map(_source, sources.values()) if s])
    sizes = after.example_sizes()
    layers = []
    for node in contractions:
        call = sources[node.name]
        low, high = (None, None) if call is None else _range(call)
        source = _source(call)
        saturated = noise.outside(source.name, low, high) if source and low is not None and high is not None else None
        stored, plain = _weight_bytes(after, node)
        layers.append(
            Layer(
                module_path(node) or node.name,
                operator_name(node.target),
                _weight_bits(after, node),
                _bits(call) if call is not None else None,
                low,
                high,
                saturated,
                noise.sqnr_db(node.name),
                macs(node, sizes),
                stored,
                plain,
            )
        )
    return Summary(tuple(layers), stored_bytes(after), stored_bytes(before))


def stored_bytes(program: Program) -> int:
    """Bytes of all weights, with integers of n bits at n / 8 bytes each, and scales and zero points counted."""
    widths = _widths(program)
    return math.ceil(sum(_size(name, tensor, widths) for name, tensor in program.weights().items()))


def _size(name: str, tensor: torch.Tensor, widths: Mapping[str, float]) -> float:
    return tensor.numel() * widths.get(name, tensor.element_size())


def _widths(program: Program) -> dict[str, float]:
    """Bytes of a number that is stored in fewer bits than PyTorch has: packed integers, and zero points, which need one byte."""
    found: dict[str, float] = {}
    for node in program.calls():
        if not is_dequantize(node):
            continue
        bound = bound_arguments(node)
        data = node.args[0]
        zeros = bound.get("zero_points")
        if program.is_weight(data):
            assert isinstance(data, fx.Node)
            found[str(data.target)] = min(1.0, _bits(node) / 8) if _bits(node) == 4 else 1.0
            if isinstance(zeros, fx.Node) and zeros.op == "get_attr":
                found[str(zeros.target)] = 1.0 if program.weight(zeros).any() else 0.0
    return found


def _bits(call: fx.Node) -> int:
    """-12..12 are the 15 numbers of E2M1, doubled."""
    bound = bound_arguments(call)
    if (bound["quant_min"], bound["quant_max"]) == (-12, 12):
        return 4
    return int(bound["quant_max"] - bound["quant_min"]).bit_length()


def _input(node: fx.Node) -> fx.Node | None:
    """What dequantizes the input of a contraction, None where it is in floating point."""
    if node.target in ops.RECURRENCES or node.target is ops.ATTENTION:
        return None
    x, _ = ops.operands(node)
    return x if is_dequantize(x) else None


def _source(call: fx.Node | None) -> fx.Node | None:
    """The value that was quantized."""
    q = call.args[0] if call is not None else None
    source = q.args[0] if isinstance(q, fx.Node) and q.op == "call_function" else None
    return source if isinstance(source, fx.Node) else None


def _range(call: fx.Node) -> tuple[float | None, float | None]:
    if call.target is not quantized.dequantize_per_tensor.default:
        return None, None
    bound = bound_arguments(call)
    scale, zero_point = float(bound["scale"]), int(bound["zero_point"])
    return (bound["quant_min"] - zero_point) * scale, (bound["quant_max"] - zero_point) * scale


def _weight_bits(program: Program, node: fx.Node) -> int | None:
    """Bits of what a contraction multiplies by; codes are read as such by the bytes that they take."""
    if node.target in ops.RECURRENCES or node.target is ops.ATTENTION:
        return None
    _, weight = ops.operands(node)
    for found in _behind(weight):
        if is_dequantize(found):
            return _bits(found)
    integers = [n for n in _behind(weight) if program.is_weight(n) and not program.weight(n).is_floating_point()]
    return 4 if integers else None


def _behind(value: object) -> Iterator[fx.Node]:
    """A weight and all that it is computed from; nothing that depends on an input but the first call that dequantizes it."""
    pending = [value]
    while pending:
        node = pending.pop()
        if not isinstance(node, fx.Node) or node.op == "placeholder":
            continue
        yield node
        if ops.is_signal(node) and node.target not in _WEIGHT_CALLS and not is_dequantize(node):
            continue
        pending += node.all_input_nodes


_WEIGHT_CALLS = frozenset(
    {torch.ops.aten.reshape.default, torch.ops.aten.mul.Tensor, torch.ops.aten.embedding.default, torch.ops.aten.to.dtype}
)


def _weight_bytes(program: Program, node: fx.Node) -> tuple[int, int]:
    """Bytes of a contraction's weight as stored and in float32; both 0 where it multiplies two activations."""
    if node.target in ops.RECURRENCES or node.target is ops.ATTENTION:
        return 0, 0
    _, weight = ops.operands(node)
    if _depends_on_input(weight):
        return 0, 0
    widths = _widths(program)
    names = {str(n.target) for n in _constants(weight)}
    held = program.weights()
    stored = sum(_size(name, held[name], widths) for name in names)
    return math.ceil(stored), 4 * weight.meta["val"].numel()


def _constants(weight: fx.Node) -> set[fx.Node]:
    pending, seen = [weight], {weight}
    while pending:
        fresh = [n for n in pending.pop().all_input_nodes if n not in seen]
        seen.update(fresh)
        pending += fresh
    return {n for n in seen if n.op == "get_attr"}


def _depends_on_input(weight: fx.Node) -> bool:
    pending, seen = [weight], {weight}
    while pending:
        node = pending.pop()
        if node.op == "placeholder":
            return True
        fresh = [n for n in node.all_input_nodes if n not in seen]
        seen.update(fresh)
        pending += fresh
    return False


class _Noise:
    """Runs both programs on the same samples and keeps the power of signal and noise of the nodes of one name."""

    def __init__(self, before: Program, after: Program, samples: Sequence[Sample], outputs: Sequence[str], inputs: Sequence[str]) -> None:
        self._signal: dict[str, float] = dict.fromkeys(outputs, 0.0)
        self._noise: dict[str, float] = dict.fromkeys(outputs, 0.0)
        self._inputs: dict[str, list[torch.Tensor]] = {name: [] for name in inputs}
        for sample in samples[:SAMPLES]:
            want = _values(before, sample, {*outputs, *inputs})
            got = _values(after, sample, set(outputs))
            for name in outputs:
                if name in want and name in got:
                    self._add(name, want[name], got[name])
            for name, seen in self._inputs.items():
                if name in want:
                    seen.append(want[name].flatten())

    def _add(self, name: str, want: torch.Tensor, got: torch.Tensor) -> None:
        self._signal[name] += float(want.double().square().sum())
        self._noise[name] += float((want.double() - got.double()).square().sum())

    def sqnr_db(self, name: str) -> float | None:
        signal, noise = self._signal[name], self._noise[name]
        return round(10 * math.log10(signal / noise), 2) if signal > 0 and noise > 0 else None

    def outside(self, name: str, low: float, high: float) -> float | None:
        if not self._inputs.get(name):
            return None
        seen = torch.cat(self._inputs[name])
        slack = max(high - low, TINY) / 510  # half a step of 255
        return float(((seen < low - slack) | (seen > high + slack)).float().mean()) if seen.numel() else None


def _values(program: Program, sample: Sample, names: set[str]) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    nodes = [n for n in program.graph.nodes if n.name in names]
    run = QuantizedRun(program, nodes, lambda node, value: found.__setitem__(node.name, value))
    with torch.no_grad():
        run.run(*sample)
    return found
