"""Attention: scaled dot products, softmax, and the weighted sum of values."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from edgecc.targeting.lowering import refuse_attention
from edgecc.targets.tvm_cpu.lowering.builder import Builder, Expr, dtype, rank, shape
from edgecc.targets.tvm_cpu.lowering.handler import Handlers, handlers
from edgecc.targets.tvm_cpu.lowering.layout import transpose

aten = torch.ops.aten


def _attention(
    b: Builder,
    node: fx.Node,
    query: Expr,
    key: Expr,
    value: Expr,
    attn_mask: Expr | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Expr:
    """`softmax(q k^T * scale + mask) v`. Vaswani et al. 2017, equation 1.

    q [.., heads, l, e], k [.., heads, s, e], v [.., heads, s, f] -> [.., heads, l, f]. A row that is masked
    throughout, by false or by -inf, gives zeros, as PyTorch does. With grouped queries, heads of k and v are shared by neighbouring heads of q.
    """
    if enable_gqa:
        key, value = (_shared(b, t, shape(query)[-3] // shape(t)[-3]) for t in (key, value))
    factor = 1 / math.sqrt(shape(query)[-1]) if scale is None else scale
    scores = b.op("matmul", b.binary("multiply", query, factor), transpose(b, key, -2, -1))
    if is_causal:
        scores = _causal(b, scores)
    if attn_mask is None:
        return b.op("matmul", b.op("nn.softmax", scores, rank(scores) - 1), value)
    if dtype(attn_mask) == "bool":
        masked = b.op("where", attn_mask, scores, b.constant(float("-inf"), dtype(scores)))
    else:
        masked = b.op("add", scores, attn_mask)
    return b.op("matmul", _masked_softmax(b, masked), value)


def _shared(b: Builder, x: Expr, times: int) -> Expr:
    return x if times == 1 else b.op("repeat", x, times, rank(x) - 3)


def _causal(b: Builder, scores: Expr) -> Expr:
    from tvm import tirx

    def element(t: Any, *index: Any) -> Any:
        return tirx.Select(index[-1] <= index[-2], t(*index), tirx.const(float("-inf"), t.dtype))

    return b.compute("causal", shape(scores), element, scores)


def _masked_softmax(b: Builder, scores: Expr) -> Expr:
    """Softmax over the last axis; a row of nothing but -inf gives zeros instead of NaN."""
    from tvm import te, tirx, topi

    axis = rank(scores) - 1

    def softmax(t: Any) -> Any:
        largest = topi.max(t, axis, keepdims=True)
        low = tirx.const(float("-inf"), t.dtype)

        def exponential(*index: Any) -> Any:
            top = largest(*index[:-1], 0)
            return tirx.exp(t(*index) - tirx.Select(top == low, tirx.const(0, t.dtype), top))

        powers = te.compute(t.shape, exponential, name="exp")
        total = topi.sum(powers, axis, keepdims=True)

        def element(*index: Any) -> Any:
            whole = total(*index[:-1], 0)
            return powers(*index) / tirx.Select(whole == 0, tirx.const(1, t.dtype), whole)

        return te.compute(t.shape, element, name="softmax")

    return b.te("masked_softmax", softmax, scores)


HANDLERS: Handlers = handlers(_attention, aten.scaled_dot_product_attention.default, refuse=refuse_attention)
