"""fuse-attention: matmul, softmax, matmul become `scaled_dot_product_attention`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from edgecc.ir.fake import size_expression
from edgecc.rewrite.pattern import Examples
from edgecc.rewrite.rewrite_pass import Match, Replacement, RewritePass, Rule, Where

_SCALE, _FILL = 1.2345e-1, -1.2345e4  # mark the literals in the traced patterns
_MASKED = -1e4  # exp(-1e4) is 0 in float32, so a weight that this is added to is exactly 0
# Sizes are distinct primes: batch 2, key heads 3, group 5, queries 7, keys 11, channels 13 and 17 of the values.
_QUERIES, _KEYS, _VALUES, _MASK = (2, 3, 7, 13), (2, 3, 11, 13), (2, 3, 11, 17), (7, 11)
_SHAPES: Examples = {"q": _QUERIES, "k": _KEYS, "v": _VALUES, "mask": _MASK, "keep": torch.ones(_MASK, dtype=torch.bool)}
_GROUPED: Examples = {**_SHAPES, "q": (2, 15, 7, 13)}
_WINDOWS: Examples = {"q": (6, 5, 7, 11), "k": (6, 5, 7, 11), "v": (6, 5, 7, 13), "bias": (5, 7, 7), "mask": (3, 1, 7, 7)}

Scores = Callable[[Tensor, Tensor, float], Tensor]


def _plain(q: Tensor, k: Tensor, scale: float) -> Tensor:
    return q @ k.mT * scale


def _repeated(k: Tensor) -> Tensor:
    """Every key head once for each query head of its group of five."""
    b, h, s, d = k.shape
    return k.unsqueeze(2).expand(b, h, 5, s, d).reshape(b, h * 5, s, d)


# -- patterns: what stands between the scores and the softmax


def _weights(scores: Tensor) -> Tensor:
    return scores.softmax(-1)


def _patterns(spread: Callable[[Tensor], Tensor]) -> dict[str, Callable[..., Tensor]]:
    """The spellings by name. `spread` repeats keys and values for grouped queries."""

    def none(q: Tensor, k: Tensor, v: Tensor, scale: float = _SCALE) -> Tensor:
        return _weights(_plain(q, spread(k), scale)) @ spread(v)

    def added(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float = _SCALE) -> Tensor:
        return _weights(_plain(q, spread(k), scale) + mask) @ spread(v)

    def kept(q: Tensor, k: Tensor, v: Tensor, keep: Tensor, scale: float = _SCALE, fill: float = _FILL) -> Tensor:
        return _weights(torch.where(keep, _plain(q, spread(k), scale), fill)) @ spread(v)

    def filled(q: Tensor, k: Tensor, v: Tensor, keep: Tensor, scale: float = _SCALE, fill: float = _FILL) -> Tensor:
        return _weights(torch.where(keep, fill, _plain(q, spread(k), scale))) @ spread(v)

    def kept_added(q: Tensor, k: Tensor, v: Tensor, keep: Tensor, mask: Tensor, scale: float = _SCALE, fill: float = _FILL) -> Tensor:
        return _weights(torch.where(keep, _plain(q, spread(k), scale), fill) + mask) @ spread(v)

    return {"none": none, "added": added, "kept": kept, "filled": filled, "kept_added": kept_added}


# -- replacements


def _attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, *, is_causal: bool = False) -> Tensor:
    """The canonical form, with four axes. A mask is float and added to the scores."""
    if q.dim() == 3:
        mask = mask.unsqueeze(0) if mask is not None and mask.dim() == 3 else mask
        return _attention(q.unsqueeze(0), k.unsqueeze(0), v.unsqueeze(0), mask, scale, is_causal=is_causal).squeeze(0)
    grouped = size_expression(q.shape[1]) != size_expression(k.shape[1])  # of symbolic sizes `!=` alone is no bool
    return F.scaled_dot_product_attention(q, k, v, mask, 0.0, is_causal, scale=scale, enable_gqa=grouped)


def _unmasked(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    return _attention(q, k, v, None, scale)


def _causal(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    return _attention(q, k, v, None, scale, is_causal=True)


def _additive(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> Tensor:
    return _attention(q, k, v, mask, scale)


def _float_mask(keep: Tensor, fill: float, like: Tensor, *, filled: bool) -> Tensor:
    """A Boolean mask as a float one.

    A finite fill becomes the smallest number, which swallows every score it is added to: a row that is masked
    everywhere keeps its uniform average, as it had where the scores were replaced.
    """
    value = fill if fill == float("-inf") else torch.finfo(like.dtype).min
    return _like(torch.where(keep, value, 0.0) if filled else torch.where(keep, 0.0, value), like)


def _like(mask: Tensor, tensor: Tensor) -> Tensor:
    return mask if mask.dtype == tensor.dtype else mask.to(tensor.dtype)


def _keeping(q: Tensor, k: Tensor, v: Tensor, keep: Tensor, scale: float, fill: float) -> Tensor:
    return _attention(q, k, v, _float_mask(keep, fill, q, filled=False), scale)


def _filling(q: Tensor, k: Tensor, v: Tensor, keep: Tensor, scale: float, fill: float) -> Tensor:
    return _attention(q, k, v, _float_mask(keep, fill, q, filled=True), scale)


def _keeping_and_adding(q: Tensor, k: Tensor, v: Tensor, keep: Tensor, mask: Tensor, scale: float, fill: float) -> Tensor:
    return _attention(q, k, v, _like(torch.where(keep, 0.0, fill), q) + mask, scale)


# -- conditions


def _fits(match: Match) -> str | None:
    """Whether queries, keys and values have the same leading axes, and a mask does not enlarge the scores."""
    q, k, v = (match.shape(n) for n in "qkv")
    if len(q) not in (3, 4) or not len(q) == len(k) == len(v):
        return f"queries have {len(q)} axes, keys {len(k)}, values {len(v)}, want 3 or 4"
    if k[:-1] != v[:-1] or q[0] != k[0]:
        return f"queries {_text(q)}, keys {_text(k)} and values {_text(v)} differ in their leading axes"
    if len(q) == 4 and q[1] != k[1] and not (isinstance(q[1], int) and isinstance(k[1], int) and q[1] % k[1] == 0):
        return f"{q[1]} query heads do not divide among {k[1]} key heads"
    scores = (*q[:-1], k[-2])
    for name in ("mask", "keep"):
        if name in match.bindings:
            shape = match.shape(name)
            if len(shape) > len(scores) or any(m not in (1, s) for m, s in zip(shape[::-1], scores[::-1], strict=False)):
                return f"the mask has shape {_text(shape)}, the scores {_text(scores)}"
    return None


def _masks(match: Match) -> str | None:
    """Whether the fill is low enough that a filled weight is 0."""
    if match.number("fill") > _MASKED:
        return f"masked scores are set to {match.number('fill'):.6g}, want {_MASKED:g} or less"
    return _fits(match)


def _is_zero(match: Match) -> str | None:
    """Whether an additive mask is a constant that hides nothing."""
    mask = match.weight("mask")
    return "the mask is no constant zero" if mask is None or bool(mask.any()) else _fits(match)


def _is_causal(match: Match) -> str | None:
    """Whether an additive mask is a constant that hides all later keys and nothing else."""
    mask = match.weight("mask")
    if mask is None or not _is_as_large_as_scores(match, mask):
        return "the mask is no constant matrix"
    earlier = torch.ones(mask.shape[-2:], dtype=torch.bool).tril()
    if bool((mask[..., earlier] != 0).any()) or bool((mask[..., ~earlier] > _MASKED).any()):
        return "the mask is not causal"
    return _fits(match)


def _hides_later(visible: bool) -> Where:
    """Whether a Boolean mask is a constant that tells earlier keys (`visible`) from later ones."""

    def where(match: Match) -> str | None:
        mask = match.weight("keep")
        if mask is None or not _is_as_large_as_scores(match, mask):
            return "the mask is no constant matrix"
        earlier = torch.ones(mask.shape[-2:], dtype=torch.bool).tril()
        if bool((mask.bool() != (earlier if visible else ~earlier)).any()):
            return "the mask is not causal"
        return _masks(match)

    return where


def _is_as_large_as_scores(match: Match, mask: Tensor) -> bool:
    """Whether the mask has a row for each query and a column for each key, not broadcast."""
    return tuple(mask.shape[-2:]) == (match.shape("q")[-2], match.shape("k")[-2])


def _text(shape: Sequence[object]) -> str:
    return f"[{', '.join(map(str, shape))}]"


# -- heads folded into the batch, as bmm wants them


def _folded(q: Tensor, k: Tensor, v: Tensor, scale: float = _SCALE) -> Tensor:
    return (q.reshape(6, 7, 13) @ k.reshape(6, 11, 13).mT * scale).softmax(-1) @ v.reshape(6, 11, 17)


def _folded_masked(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float = _SCALE) -> Tensor:
    scores = (q.reshape(6, 7, 13) @ k.reshape(6, 11, 13).mT * scale).reshape(2, 3, 7, 11) + mask
    return scores.reshape(6, 7, 11).softmax(-1) @ v.reshape(6, 11, 17)


def _folded_late(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float = _SCALE) -> Tensor:
    scores = (q.reshape(6, 7, 13) @ k.reshape(6, 11, 13).mT * scale).reshape(2, 3, 7, 11) + mask
    return scores.softmax(-1).reshape(6, 7, 11) @ v.reshape(6, 11, 17)


def _fold(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    return _attention(q, k, v, None, scale).flatten(0, 1)


def _fold_masked(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> Tensor:
    return _attention(q, k, v, mask, scale).flatten(0, 1)


# -- shifted windows: a bias for each head and a mask for each window


def _windows(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor, scale: float = _SCALE) -> Tensor:
    scores = (q @ k.mT * scale + bias).reshape(2, 3, 5, 7, 7) + mask
    return scores.reshape(6, 5, 7, 7).softmax(-1) @ v


def _windows_as_heads(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Every window of an image becomes a group of heads, so that bias plus mask is one mask for the batch."""
    heads, windows = q.shape[1], mask.shape[-4]
    both = bias + mask.reshape(mask.shape[-4:])
    both = both.reshape(1, windows * heads, *both.shape[-2:])
    q, k, v = (t.reshape(-1, windows * heads, *t.shape[-2:]) for t in (q, k, v))
    result = _attention(q, k, v, both, scale)
    return result.reshape(-1, heads, *result.shape[-2:])


def _window_shapes(match: Match) -> str | None:
    """Whether queries, keys and values have the same windows and heads, the mask is for windows and the bias for heads."""
    q, k, v, bias, mask = (match.shape(n) for n in ("q", "k", "v", "bias", "mask"))
    if len(mask) not in (4, 5) or mask[:-4] not in ((), (1,)) or mask[-3] != 1 or not all(isinstance(s, int) for s in (*mask, q[1])):
        return f"the mask has shape {_text(mask)}, want [windows, 1, queries, keys]"
    if len(bias) < 3 or bias[-3] != q[1] or any(s != 1 for s in bias[:-3]):
        return f"the bias has shape {_text(bias)}, want [heads, queries, keys]"
    if not q[:2] == k[:2] == v[:2] or k[2] != v[2]:
        return f"queries {_text(q)}, keys {_text(k)} and values {_text(v)} differ in their leading axes"
    return None


def _rules() -> Sequence[Rule]:
    """The most special ones first: grouped before plain, causal before any mask."""
    conditions: list[tuple[str, Replacement, Where]] = [
        ("added", _unmasked, _is_zero),
        ("added", _causal, _is_causal),
        ("kept", _causal, _hides_later(visible=True)),
        ("filled", _causal, _hides_later(visible=False)),
        ("kept_added", _keeping_and_adding, _masks),
        ("kept", _keeping, _masks),
        ("filled", _filling, _masks),
        ("added", _additive, _fits),
        ("none", _unmasked, _fits),
    ]
    grouped, plain = _patterns(_repeated), _patterns(lambda k: k)
    folded = (
        Rule(_folded_masked, _fold_masked, _fits, _SHAPES),
        Rule(_folded_late, _fold_masked, _fits, _SHAPES),
        Rule(_folded, _fold, _fits, _SHAPES),
    )
    whole = [
        Rule(patterns[name], replacement, where, shapes)
        for (patterns, shapes), (name, replacement, where) in product(((grouped, _GROUPED), (plain, _SHAPES)), conditions)
    ]
    return [Rule(_windows, _windows_as_heads, _window_shapes, _WINDOWS), *folded, *whole]


_RULES = tuple(_rules())


@dataclass(frozen=True)
class FuseAttention(RewritePass):
    """`softmax(q @ k.T * scale + mask) @ v` to `aten.scaled_dot_product_attention`. Vaswani et al. 2017, equation 1.

    Targets get one form: `(q, k, v, attn_mask, 0.0, is_causal, scale=, enable_gqa=)` with tensors of four axes, an
    explicit scale, and a mask that is None or float and added to the scores. A constant causal mask becomes
    `is_causal`, a constant zero none. Keys and values repeated for grouped queries become `enable_gqa`. Boolean masks become float ones,
    because a row that is masked everywhere averages all values in the eager spelling.
    """

    name = "fuse-attention"
    anchors = frozenset({"softmax"})

    def rules(self) -> Sequence[Rule]:
        return _RULES
