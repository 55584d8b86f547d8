"""Attention as MatMul, Softmax, MatMul, the form that runtimes fuse: the scale on q, the mask added, nothing after Softmax."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import fx

from edgecc.targeting.lowering import arguments_of, refuse_attention
from edgecc.targets.onnx_common.builder import Builder
from edgecc.targets.onnx_common.lowering.contraction import matmul
from edgecc.targets.onnx_common.lowering.handler import Handlers, Value, at_any_opset, handlers

aten = torch.ops.aten
_MASKED = -3e4  # finite, so that no row is NaN; inside of float16, and far below every score
_STORED = 2**16  # elements of a causal mask that is stored rather than computed


@dataclass(frozen=True)
class Mask:
    """What is added to the scores, and 1 or 0 for each row with or without a key; None where nothing, and all have one."""

    added: Value | None = None
    rows: Value | None = None


def _attention(
    b: Builder,
    node: fx.Node,
    query: Value,
    key: Value,
    value: Value,
    attn_mask: Value | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Value:
    """`softmax(q k^T * scale + mask) v`. Vaswani et al. 2017, equation 1.

    q [.., heads, l, e], k [.., heads, s, e], v [.., heads, s, f] -> [.., heads, l, f]. A row that is masked throughout,
    by false or by -inf, gives zeros, as in PyTorch: its result is multiplied by 0. With grouped queries, heads of k and
    v are shared by neighbouring heads of q.
    """
    factor = 1 / math.sqrt(b.sizes(query)[-1]) if scale is None else scale
    given = arguments_of(node)["attn_mask"]
    mask = Mask() if attn_mask is None else Mask(attn_mask) if _is_finite(b, given) else _mask(b, attn_mask, b.dtype(query))
    if b.attention and b.opset >= 23 and b.rank(query) == 4:
        sizes = [*b.sizes(query)[:-1], b.sizes(value)[-1]]
        result = b.op("Attention", query, key, value, mask.added, scale=float(factor), is_causal=int(is_causal), sizes=sizes)
    else:
        if enable_gqa:
            key, value = (_shared(b, t, b.sizes(query)[-3] // b.sizes(t)[-3]) for t in (key, value))
        scores = matmul(b, b.binary("Mul", query, factor), b.swap(key, b.rank(key) - 2, b.rank(key) - 1))
        if is_causal:
            scores = b.op("Add", scores, _causal(b, scores))
        if mask.added is not None:
            scores = b.op("Add", scores, mask.added)
        result = matmul(b, b.op("Softmax", scores), value)
    return result if mask.rows is None else b.op("Mul", result, mask.rows)


def _shared(b: Builder, x: Value, times: int) -> Value:
    """Every head `times` times, one after the other. x [.., heads, s, e]."""
    if times == 1:
        return x
    axis = b.rank(x) - 3
    heads = torch.arange(b.sizes(x)[axis]).repeat_interleave(times)
    return b.gather(x, b.constant(heads, torch.int64, "heads"), axis)


def _causal(b: Builder, scores: Value) -> Value:
    """A large negative number above the diagonal, 0 elsewhere."""
    length, keys = b.sizes(scores)[-2:]
    if isinstance(length, int) and isinstance(keys, int) and length * keys <= _STORED:
        return b.constant(torch.full((length, keys), _MASKED).triu(1), b.dtype(scores), "causal")
    full = b.expand(b.constant(_MASKED, b.dtype(scores)), [length, keys])
    return b.op("Trilu", full, b.constant(1, torch.int64), sizes=[length, keys])


def _mask(b: Builder, mask: Value, to: torch.dtype) -> Mask:
    held = b.tensor_of(mask)
    if held is not None:
        return _constant_mask(b, held, to)
    if b.dtype(mask) is torch.bool:
        added = b.op("Where", mask, b.constant(0.0, to), b.constant(_MASKED, to), dtype=to)
        return Mask(added, b.reduce("ReduceMax", b.cast(mask, to), [b.rank(mask) - 1], True))
    added = b.binary("Max", b.cast(mask, to), _MASKED)
    best = b.reduce("ReduceMax", b.cast(mask, to), [b.rank(mask) - 1], True)
    return Mask(added, b.cast(b.binary("Greater", best, -math.inf, dtype=torch.bool), to))


def _is_finite(b: Builder, mask: fx.Node) -> bool:
    """Whether a mask is a choice between finite numbers, with which PyTorch's own softmax has no NaN either."""
    if mask.target not in (aten.where.Scalar, aten.where.ScalarOther, aten.where.ScalarSelf, aten.where.self):
        return False
    return mask.meta["val"].is_floating_point() and all(_is_finite_choice(b, a) for a in mask.args[1:])


def _is_finite_choice(b: Builder, value: object) -> bool:
    held = b.program.weight(value) if isinstance(value, fx.Node) and value.op == "get_attr" else value
    return bool(held.isfinite().all()) if isinstance(held, torch.Tensor) else isinstance(held, float) and math.isfinite(held)


def _constant_mask(b: Builder, mask: torch.Tensor, to: torch.dtype) -> Mask:
    seen = mask if mask.dtype is torch.bool else mask > -math.inf
    added = torch.where(mask, 0.0, _MASKED) if mask.dtype is torch.bool else mask.clamp(min=_MASKED)
    rows = seen.any(-1, keepdim=True)
    return Mask(b.constant(added, to, "mask"), None if bool(rows.all()) else b.constant(rows, to, "rows"))


HANDLERS: Handlers = handlers(_attention, aten.scaled_dot_product_attention.default, refuse=at_any_opset(refuse_attention))
