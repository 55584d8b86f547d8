"""insert-fake-quant: choose which weights and activations become integers, and simulate that in floating point.

Weights get their scales at once. Activations get nodes whose ranges `calibrate` finds; the scales of dynamic ones are computed
when the program runs, so these are written as they will stay.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import fx

from edgecc.errors import UsageError
from edgecc.ir.program import Program
from edgecc.ir.provenance import module_path
from edgecc.ir.quantized import is_dequantize, quantized
from edgecc.pipeline.base import LOSSY, Pass
from edgecc.pipeline.blame import values
from edgecc.pipeline.context import PassContext
from edgecc.quantization import codes, fake_quant, weights
from edgecc.quantization import operators as ops
from edgecc.quantization.placement import Points, placement, points
from edgecc.quantization.scheme import ActivationFormat, Scheme, WeightFormat, scheme

aten = torch.ops.aten
_INT8 = (-128, 127, torch.int8)


@dataclass(frozen=True)
class InsertFakeQuant(Pass):
    """Quantize by `scheme`, at the places that the target's `placement` names.

    `symmetric`: activations have zero point 0. `layers`: pairs of a regular expression and a scheme, the first that is found
    in a layer's module path or node name decides. `attention`: whether what a softmax gives is quantized too. `embeddings`:
    whether tables are stored in integers, a scale for each row; one that a pattern of `layers` finds is stored as that says, and
    a table that is also a layer's weight always as that.
    """

    name = "insert-fake-quant"
    numerics = LOSSY  # a range is not known yet

    scheme: str = "int8"
    placement: str = "integer"
    symmetric: bool = False
    layers: tuple[tuple[str, str], ...] = ()
    attention: bool = False
    embeddings: bool = False

    def run(self, program: Program, context: PassContext) -> int:
        """Raises UsageError for an unknown name, and for a pattern of `layers` that no layer matches."""
        found = [n for n in program.calls(*ops.CONTRACTIONS) if not any(map(_is_quantized, n.all_input_nodes))]
        tables = [n for n in program.calls(aten.embedding.default) if program.is_weight(n.args[0])]
        chosen = _schemes(found, tables, scheme(self.scheme), self.layers)
        for node in found:
            if not chosen[node].integers:
                context.missed(node, f"stays in floating point: its scheme is {chosen[node].name}")
            elif chosen[node].activation is None and not ops.has_weight(program, node):
                context.missed(node, f"stays in floating point: it has no stored weight, and {chosen[node].name} quantizes weights alone")
        count = _insert_static(program, self, chosen, context)
        count += sum(_insert_dynamic(program, node, chosen[node], context) for node in found)
        count += _insert_weights(program, chosen, context)
        default = scheme("int8-weight" if self.embeddings else "float")
        stored = _schemes(tables, found, default, self.layers)
        count += sum(_insert_table(program, node, stored[node].weight) for node in tables)
        for node in program.calls(*ops.RECURRENCES, ops.ATTENTION):
            context.missed(node, "stays in floating point: no target computes it in integers")
        return count


def _is_quantized(node: fx.Node) -> bool:
    return fake_quant.behind(node) is not node or is_dequantize(node)


def _schemes(
    layers: Sequence[fx.Node], others: Sequence[fx.Node], default: Scheme, patterns: tuple[tuple[str, str], ...]
) -> dict[fx.Node, Scheme]:
    """The scheme of every layer. Raises UsageError for a bad pattern and for one that neither these nor `others` match."""
    chosen = dict.fromkeys(layers, default)
    unused = dict.fromkeys(pattern for pattern, _ in patterns if not any(_matches(pattern, n) for n in others))
    for node in layers:
        for pattern, name in patterns:
            if _matches(pattern, node):
                chosen[node] = scheme(name)
                unused.pop(pattern, None)
                break
    if unused and layers:
        known = ", ".join(dict.fromkeys(filter(None, map(module_path, (*layers, *others)))))
        raise UsageError(f"no layer matches {next(iter(unused))!r}", hint=f"module paths of the model's layers: {known}")
    return chosen


def _matches(pattern: str, node: fx.Node) -> bool:
    try:
        return any(re.search(pattern, name) for name in (module_path(node), node.name))
    except re.error as error:
        raise UsageError(f"{pattern!r} is no regular expression: {error}") from error


def _insert_static(program: Program, options: InsertFakeQuant, chosen: Mapping[fx.Node, Scheme], context: PassContext) -> int:
    """Fake-quant nodes of activations, and remarks on what stays in floating point."""
    formats = {n: s.activation for n, s in chosen.items() if s.activation and not s.activation.dynamic}
    if not formats:
        return 0
    others = [n for n in program.calls(*ops.CONTRACTIONS) if n not in formats]
    found = points(program, placement(options.placement), others, attention=options.attention)
    for node, why in found.left.items():
        if node in formats:
            context.missed(node, f"stays in floating point: {why}")
    peaks = _peaks(program, found, context)
    made: dict[fx.Node, fx.Node] = {}
    for value, readers in found.readers.items():
        bits = max([formats[r].bits for r in readers if r in formats], default=max(f.bits for f in formats.values()))
        like = made.get(found.tied[value]) if value in found.tied else None
        fake = fake_quant.insert_activation(program, value, ActivationFormat(bits), peaks.get(value.name, 1.0), like)
        made[value] = fake
        for reader in readers:
            reader.replace_input_with(value, fake)
    return len(made)


def _peaks(program: Program, found: Points, context: PassContext) -> dict[str, float]:
    """The largest magnitude of each value on one sample, for provisional scales."""
    if not found.readers or not context.samples:
        return {}
    program.recompile()
    seen = values(program, context.samples[0])
    held = {n.name: seen[n.name] for n in found.readers if n.name in seen and seen[n.name].numel()}
    return {name: float(v.nan_to_num(0, 1, 1).abs().max()) for name, v in held.items()}


def _insert_dynamic(program: Program, node: fx.Node, kind: Scheme, context: PassContext) -> bool:
    """Quantize the rows of a linear layer's input by scales computed from them. Yao et al. 2022 (ZeroQuant), section 3.1."""
    if not (kind.activation and kind.activation.dynamic):
        return False
    x, weight = ops.operands(node)
    if node.target not in ops.LINEARS or not ops.is_signal(x) or not program.is_weight(weight):
        context.missed(node, "its input stays in floating point: rows are quantized for linear layers alone")
        return False
    twin = next((u for u in x.users if u.target is quantized.choose_qparams_per_token_asymmetric.default), None)
    ops.set_operands(program, node, _dequantized(twin) if twin else _quantize_rows(program, x), weight)
    return True


def _dequantized(chosen: fx.Node) -> fx.Node:
    scale = next(u for u in chosen.users if u.args[1] == 0)
    return next(u for u in scale.users if u.target is quantized.dequantize_per_token.default)


def _quantize_rows(program: Program, x: fx.Node) -> fx.Node:
    chosen = fake_quant.call_after(program, x, quantized.choose_qparams_per_token_asymmetric.default, x, torch.int8)
    zero_point = fake_quant.call_after(program, chosen, operator.getitem, chosen, 1)
    scale = fake_quant.call_after(program, chosen, operator.getitem, chosen, 0)
    rows = fake_quant.call_after(program, zero_point, quantized.quantize_per_token.default, x, scale, zero_point, *_INT8)
    return fake_quant.call_after(program, rows, quantized.dequantize_per_token.default, rows, scale, zero_point, *_INT8, torch.float32)


def _insert_weights(program: Program, chosen: Mapping[fx.Node, Scheme], context: PassContext) -> int:
    """Quantize every weight once, and let all layers of the same scheme and the embeddings that are tied to it read it."""
    made: dict[tuple[str, WeightFormat, int], fx.Node] = {}
    for node, kind in chosen.items():
        x, weight = ops.operands(node)
        if kind.weight is None or not ops.has_weight(program, node):
            continue
        axis = ops.channel_axis(node)
        wanted = _fitting(program.weight(weight), kind.weight, axis, node, context)
        key = str(weight.target), wanted, axis
        if key not in made:
            made[key] = _insert_weight(program, weight, node, axis, wanted)
        ops.set_operands(program, node, x, made[key])
    return len(made)


def _fitting(weight: torch.Tensor, kind: WeightFormat, axis: int, node: fx.Node, context: PassContext) -> WeightFormat:
    """The format, without groups where the channels are not made of whole ones."""
    if not kind.group or (axis == 0 and weights.fits(weight, kind.group)):
        return kind
    context.note(node, f"a scale per channel: {weight[0].numel()} numbers a channel are not whole groups of {kind.group}")
    return WeightFormat(kind.bits, 0, kind.symmetric)


def _insert_weight(program: Program, weight: fx.Node, reader: fx.Node, axis: int, kind: WeightFormat) -> fx.Node:
    tables = [u for u in weight.users if u.target is aten.embedding.default and u.args[0] is weight and axis == 0]
    first = min([reader, *tables], key=list(program.graph.nodes).index)
    if kind.codes != "int":
        out = codes.insert(program, weight, first, kind)
    else:
        out = fake_quant.insert_weight(program, weight, first, axis, kind, weights.choose(program.weight(weight), axis, kind))
    for table in tables:
        table.replace_input_with(weight, out)
    return out


def _insert_table(program: Program, node: fx.Node, kind: WeightFormat | None) -> bool:
    """Quantize an embedding table, a scale for each row."""
    table = node.args[0]
    if kind is None or not isinstance(table, fx.Node) or not program.is_weight(table) or not table.meta["val"].is_floating_point():
        return False
    out = _insert_weight(program, table, node, 0, kind if weights.fits(program.weight(table), kind.group or 1) else WeightFormat())
    return out is not table
