"""The parts that all of a model is made of: layers of a stored weight, and norms."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import fx

from edgecc.ir.ops import bound_arguments
from edgecc.targets.gguf.recognition.description import Linear, Norm
from edgecc.targets.gguf.recognition.reading import Reader, aten, strip


def linear_at(node: Any) -> Linear | None:
    """A layer of a stored weight, None for anything else."""
    if not isinstance(node, fx.Node) or node.target is not aten.linear.default:
        return None
    bound = bound_arguments(node)
    weight, bias = bound["weight"], bound["bias"]
    stored = all(part is None or part.op == "get_attr" for part in (weight, bias))
    return Linear(node, weight, bias) if stored else None


def norm_at(node: fx.Node, reader: Reader) -> Norm | None:
    """A norm over the last dimension, and constants that multiply it; its weights do not depend on the tokens. None for any other call."""
    if node.target is aten.mul.Tensor and node in reader.live:
        return _scaled_norm(node, reader)
    if node.target not in (aten.rms_norm.default, aten.layer_norm.default):
        return None
    bound = bound_arguments(node)
    weight, bias = bound["weight"], bound.get("bias")
    if len(bound["normalized_shape"]) != 1 or any(not reader.is_constant(p) for p in (weight, bias) if p is not None):
        return None
    rms = node.target is aten.rms_norm.default
    eps = bound["eps"] if bound["eps"] is not None else torch.finfo(node.meta["val"].dtype).eps
    return Norm(node, bound["input"], "rms" if rms else "layer", weight, bias, float(eps))


def _scaled_norm(node: fx.Node, reader: Reader) -> Norm | None:
    moving = [strip(a) for a in node.args if a in reader.live]
    norm = norm_at(moving[0], reader) if len(moving) == 1 else None
    if norm is None:
        return None
    (constant,) = (a for a in node.args if a not in reader.live)
    if isinstance(constant, fx.Node) and not reader.is_constant(constant):
        return None
    factor = torch.as_tensor(reader.value(constant), dtype=torch.float32)
    width = int(node.meta["val"].shape[-1])
    if factor.numel() not in (1, width) or factor.shape[-1:] not in ((), (1,), (width,)):
        return None
    whole = factor.flatten().expand(width)
    return replace(norm, node=node, factor=whole if norm.factor is None else whole * norm.factor)
