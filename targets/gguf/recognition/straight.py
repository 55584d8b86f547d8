"""Calls that are linear in what they compute from: numbers put in tell all there is to know of them."""

from __future__ import annotations

import operator
from collections.abc import Set

import torch
from torch import fx

aten = torch.ops.aten

#: Linear in all of their tensors at once: they move numbers, add them up or change their sign.
_MOVING = frozenset(
    {
        operator.getitem,
        aten.view.default,
        aten._unsafe_view.default,
        aten.reshape.default,
        aten.flatten.using_ints,
        aten.unflatten.int,
        aten.unsqueeze.default,
        aten.squeeze.default,
        aten.squeeze.dim,
        aten.squeeze.dims,
        aten.expand.default,
        aten.repeat.default,
        aten.repeat_interleave.self_int,
        aten.transpose.int,
        aten.permute.default,
        aten.t.default,
        aten.movedim.int,
        aten.slice.Tensor,
        aten.select.int,
        aten.narrow.default,
        aten.index_select.default,
        aten.index.Tensor,
        aten.split.Tensor,
        aten.split_with_sizes.default,
        aten.chunk.default,
        aten.unbind.int,
        aten.cat.default,
        aten.stack.default,
        aten.slice_scatter.default,
        aten.select_scatter.default,
        aten.roll.default,
        aten.flip.default,
        aten.contiguous.default,
        aten.clone.default,
        aten.alias.default,
        aten.detach.default,
        aten.view_as_complex.default,
        aten.view_as_real.default,
        aten.complex.default,
        aten.real.default,
        aten.imag.default,
        aten.neg.default,
        aten.add.Tensor,
        aten.sub.Tensor,
    }
)
#: Linear in one of them where the other does not depend on it.
_PRODUCTS = frozenset({aten.mul.Tensor, aten.mul.Scalar, aten.matmul.default, aten.mm.default, aten.bmm.default})
_QUOTIENTS = frozenset({aten.div.Tensor, aten.div.Scalar})
_CASTS = frozenset({aten.to.dtype, aten.to.dtype_layout, aten._to_copy.default})


def is_linear(node: fx.Node, live: Set[fx.Node]) -> bool:
    """Whether a call is linear, up to something added, in its operands that are `live`."""
    if node.target in _MOVING:
        return True
    if node.target in _CASTS:
        return _is_float(node)
    moving = [operand for operand in node.all_input_nodes if operand in live]
    if node.target in _PRODUCTS:
        return len(moving) == 1 and sum(a is moving[0] for a in node.args) == 1
    return node.target in _QUOTIENTS and moving == [node.args[0]] and node.args[1] is not node.args[0] and not node.kwargs


def _is_float(node: fx.Node) -> bool:
    before: torch.dtype = node.all_input_nodes[0].meta["val"].dtype
    after: torch.dtype = node.meta["val"].dtype
    return (before.is_floating_point and after.is_floating_point) or (before.is_complex and after.is_complex)
