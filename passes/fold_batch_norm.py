"""fold-batch-norm: a batch norm with fixed statistics disappears into the convolution or linear beside it.

y = (x - mean) / sqrt(var + eps) * w + b is, for each channel, y = x * s + t. After a linear operator W x + c the scale
goes into the rows of W and the shift into c. Before one the scale goes into the columns of W and W t into c; that is
exact only where no padding brings in zeros that the norm would have shifted. Jacob et al. 2018, section 3.2.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from edgecc.ir import provenance
from edgecc.ir.ops import bound_arguments, operator_name
from edgecc.ir.program import Program
from edgecc.pipeline.base import REORDERED, Pass
from edgecc.pipeline.context import PassContext

aten = torch.ops.aten

CONVOLUTIONS = (
    *(aten.conv1d.default, aten.conv2d.default, aten.conv3d.default),
    *(aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding),
)
TRANSPOSED = (aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input)
LINEAR = (*CONVOLUTIONS, *TRANSPOSED, aten.linear.default)
TUPLES = (aten._native_batch_norm_legit_no_training.default, aten.native_batch_norm.default)


@dataclass(frozen=True)
class _Norm:
    """A batch norm as y = x * scale + shift, both [channels] f64. `out` is the node that users read."""

    call: fx.Node
    out: fx.Node
    x: fx.Node
    scale: torch.Tensor
    shift: torch.Tensor


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """Fold batch norms into convolutions (also transposed and grouped) and linear layers; computed in float64."""

    name = "fold-batch-norm"
    numerics = REORDERED

    def run(self, program: Program, context: PassContext) -> int:
        uses = Counter(str(n.target) for n in program.graph.nodes if n.op == "get_attr" for _ in n.users)
        folded = 0
        for call in program.calls(aten.batch_norm.default, *TUPLES):
            norm = _read(program, call)
            reason = norm if isinstance(norm, str) else _fold(program, norm, uses)
            if reason is None:
                folded += 1
                context.applied(call, "folded into the weights beside it")
            else:
                context.missed(call, reason)
        return folded


def _read(program: Program, call: fx.Node) -> _Norm | str:
    """The scale and shift of a batch norm, or why it has none."""
    bound = bound_arguments(call)
    if bound.get("training"):
        return "normalizes by the statistics of its batch"
    parts = [bound.get(k) for k in ("weight", "bias", "running_mean", "running_var")]
    if any(p is not None and not program.is_weight(p) for p in parts) or parts[2] is None or parts[3] is None:
        return "its statistics or its affine parameters are computed at run time"
    out = call
    if call.target in TUPLES:
        if any(user.args[1] != 0 for user in call.users) or len(call.users) != 1:
            return "its saved statistics are read"
        out = next(iter(call.users))
    weight, bias, mean, var = (None if p is None else program.weight(p).double() for p in parts)
    assert mean is not None and var is not None
    scale = (var + bound["eps"]).rsqrt()
    scale = scale if weight is None else scale * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    return _Norm(call, out, bound["input"], scale, shift)


def _fold(program: Program, norm: _Norm, uses: Counter[str]) -> str | None:
    """Fold into the operator before the norm, else into the one after it; None when done, else why neither takes it."""
    before = _refusal_before(program, norm, uses)
    if before is None:
        _fold_before(program, norm)
        return None
    after = _refusal_after(program, norm, uses)
    if after is None:
        _fold_after(program, norm)
        return None
    return f"before it: {before}; after it: {after}"


def _refusal_before(program: Program, norm: _Norm, uses: Counter[str]) -> str | None:
    conv = norm.x
    if conv.target not in LINEAR:
        return f"{_name(conv)} has no weights to fold into"
    if len(conv.users) > 1:
        return f"{conv.name} is read by {len(conv.users)} nodes"
    if conv.target == aten.linear.default and conv.meta["val"].dim() != 2:
        return f"{conv.name} writes its features to the last axis, and the norm reads axis 1"
    if conv.target != aten.linear.default and conv.meta["val"].dim() != bound_arguments(conv)["weight"].meta["val"].dim():
        return f"{conv.name} has no batch axis"
    return _refused_weights(program, conv, uses)


def _refusal_after(program: Program, norm: _Norm, uses: Counter[str]) -> str | None:
    if len(norm.out.users) != 1:
        return f"{len(norm.out.users)} nodes read it"
    (conv,) = norm.out.users
    if conv.target not in LINEAR or conv.args[0] is not norm.out:
        return f"{_name(conv)} has no weights to fold into"
    rank = norm.out.meta["val"].dim()
    if conv.target == aten.linear.default and rank != 2:
        return f"{conv.name} reads the last axis, and the norm writes axis 1"
    if conv.target != aten.linear.default and rank != bound_arguments(conv)["weight"].meta["val"].dim():
        return f"{conv.name} has no batch axis"
    if torch.any(norm.shift != 0) and not _sees_no_padding(conv):
        return f"{conv.name} pads with zeros, which the norm's shift would have moved"
    return _refused_weights(program, conv, uses)


def _refused_weights(program: Program, conv: fx.Node, uses: Counter[str]) -> str | None:
    bound = bound_arguments(conv)
    weight, bias = bound["weight"], bound["bias"]
    if not program.is_weight(weight) or (bias is not None and not program.is_weight(bias)):
        return f"the weights of {conv.name} are computed at run time"
    if not program.weight(weight).is_floating_point():
        return f"the weights of {conv.name} are integers"
    if uses[str(weight.target)] > 1:
        return f"{weight.target} is used {uses[str(weight.target)]} times"
    if bias is not None and uses[str(bias.target)] > 1:
        return f"{bias.target} is used {uses[str(bias.target)]} times"
    return None


def _sees_no_padding(conv: fx.Node) -> bool:
    """Whether every output element reads real elements only, all taps of the kernel. Never so for transposed ones."""
    if conv.target == aten.linear.default:
        return True
    padding = bound_arguments(conv)["padding"]
    return conv.target in CONVOLUTIONS and (padding == "valid" if isinstance(padding, str) else not any(padding))


def _fold_before(program: Program, norm: _Norm) -> None:
    conv = norm.x
    weight, bias, groups = _weights(program, conv)
    if conv.target in TRANSPOSED:
        grouped = weight.view(groups, -1, *weight.shape[1:])  # [in, out/groups, ...] -> [groups, in/groups, out/groups, ...]
        scale = norm.scale.view(groups, 1, -1, *[1] * (weight.dim() - 2))
        scaled = (grouped * scale).flatten(0, 1)
    else:
        scaled = weight * norm.scale.view(-1, *[1] * (weight.dim() - 1))
    shifted = norm.shift if bias is None else bias * norm.scale + norm.shift
    _store(program, conv, scaled, shifted)
    program.replace(norm.out, conv)


def _fold_after(program: Program, norm: _Norm) -> None:
    (conv,) = norm.out.users
    weight, bias, groups = _weights(program, conv)
    if conv.target in TRANSPOSED:
        scaled, constant = weight * norm.scale.view(-1, *[1] * (weight.dim() - 1)), None
    else:
        taps = [1] * (weight.dim() - 2)
        grouped = weight.view(groups, -1, *weight.shape[1:])  # [out, in/groups, ...] -> [groups, out/groups, in/groups, ...]
        scaled = (grouped * norm.scale.view(groups, 1, -1, *taps)).flatten(0, 1)
        moved = (grouped * norm.shift.view(groups, 1, -1, *taps)).flatten(0, 1).flatten(1).sum(1)
        constant = moved if bias is None else bias + moved
    old = norm.out
    conv.update_arg(0, norm.x)
    program.erase_dead([old])
    if constant is not None and (bias is not None or torch.any(constant != 0)):
        _store(program, conv, scaled, constant)
    else:
        node = bound_arguments(conv)["weight"]
        program.set_weight(node, scaled.to(program.weight(node).dtype))


def _weights(program: Program, conv: fx.Node) -> tuple[torch.Tensor, torch.Tensor | None, int]:
    """Weight and bias in float64, and the groups."""
    bound = bound_arguments(conv)
    bias = None if bound["bias"] is None else program.weight(bound["bias"]).double()
    return program.weight(bound["weight"]).double(), bias, bound.get("groups", 1)


def _store(program: Program, conv: fx.Node, weight: torch.Tensor, bias: torch.Tensor) -> None:
    """Replace the weights under their old names; a new bias is named after the module."""
    bound = bound_arguments(conv)
    dtype = program.weight(bound["weight"]).dtype
    program.set_weight(bound["weight"], weight.to(dtype))
    if bound["bias"] is not None:
        program.set_weight(bound["bias"], bias.to(dtype))
        return
    stem = provenance.module_path(conv) or conv.name
    added = program.add_weight(f"{stem}.bias", bias.to(dtype), conv)
    program.replace_args(conv, bound["input"], bound["weight"], added)


def _name(value: Any) -> str:
    return operator_name(value.target) if isinstance(value, fx.Node) and value.op == "call_function" else str(value)
