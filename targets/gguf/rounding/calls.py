"""Calls that multiply a value by a weight matrix, in one form: y = x W^T + b, W [out, in]."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx
from torch.nn import functional as F

from edgecc.ir.ops import bound_arguments

aten = torch.ops.aten
_PRODUCTS = (aten.mm.default, aten.matmul.default)
#: Calls that leave the vectors of a value as they are; the views only where the size of the last axis stays.
_VIEWS = (aten.view.default, aten.reshape.default, aten._unsafe_view.default, aten.flatten.using_ints)
_SAME = (aten.dropout.default, aten.alias.default, aten.detach.default, aten.contiguous.default, aten.clone.default)


@dataclass(frozen=True)
class Linear:
    """A call `node` that reads `x` [.., in] and perhaps a `bias`. `beta`, `alpha`: what it multiplies the bias and the product by."""

    node: fx.Node
    x: fx.Node
    bias: fx.Node | None
    beta: float = 1.0
    alpha: float = 1.0

    def run(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """What the call computes with another weight [out, in]."""
        found = F.linear(x, weight.to(x.dtype))
        found = found if self.alpha == 1.0 else found * self.alpha
        return found if bias is None else found + (bias if self.beta == 1.0 else bias * self.beta)

    @property
    def source(self) -> fx.Node:
        """The value whose vectors the call reads, behind views of it."""
        node = self.x
        while node.target in _SAME or (node.target in _VIEWS and _width(node) == _width(node.all_input_nodes[0])):
            node = node.all_input_nodes[0]
        return node


def linear(node: fx.Node) -> Linear | None:
    """A call of aten.linear, addmm, mm or matmul by a matrix; None for any other."""
    if node.target is aten.linear.default:
        bound = bound_arguments(node)
        return Linear(node, bound["input"], bound["bias"])
    if node.target is aten.addmm.default:
        bound = bound_arguments(node)
        return Linear(node, bound["mat1"], bound["self"], float(bound["beta"]), float(bound["alpha"]))
    if node.target in _PRODUCTS:
        x, weight = node.args[:2]
        if isinstance(x, fx.Node) and isinstance(weight, fx.Node) and weight.meta["val"].dim() == 2:
            return Linear(node, x, None)
    return None


def _width(node: fx.Node) -> int | torch.SymInt | None:
    shape = node.meta["val"].shape
    return shape[-1] if len(shape) else None
