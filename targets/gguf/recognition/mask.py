"""The mask of an attention, read from its values."""

from __future__ import annotations

import torch
from torch import fx

from edgecc.ir.ops import bound_arguments
from edgecc.targets.gguf.recognition.description import Mask
from edgecc.targets.gguf.recognition.reading import Reader, UnrecognizedError

_HIDDEN = -1e4  # a score below this is no attention: masks hold -inf, the least float, -1e9 or -65504


def read_mask(reader: Reader, node: fx.Node, heads: int, length: int) -> Mask:
    """The mask of a scaled_dot_product_attention. Raises UnrecognizedError for a window, a bias of positions, and others."""
    bound = bound_arguments(node)
    if bound["attn_mask"] is None:
        return Mask("causal" if bound["is_causal"] else "full")
    if isinstance(bound["attn_mask"], fx.Node) and bound["attn_mask"] in reader.live:
        raise UnrecognizedError(node, "its mask depends on the tokens")
    found = reader.value(bound["attn_mask"])
    scores = torch.zeros(found.shape, dtype=torch.float64).masked_fill(~found, -torch.inf) if found.dtype == torch.bool else found.double()
    scores = scores.expand(-1, heads, length, length)[0] if scores.dim() == 4 else scores.expand(heads, length, length)
    seen = scores > _HIDDEN
    lower = torch.tril(torch.ones(length, length, dtype=torch.bool))
    if bool((seen == lower).all()):
        return _biased(node, scores, "causal")
    if bool(seen.all()):
        return _biased(node, scores, "full")
    raise UnrecognizedError(node, _described(seen[0], lower))


def _biased(node: fx.Node, scores: torch.Tensor, direction: str) -> Mask:
    """With what is added to the scores of tokens that are seen: nothing, or a slope for each position of distance."""
    lower = torch.tril(torch.ones_like(scores[0], dtype=torch.bool))
    length = scores.shape[-1]
    relative = torch.where(lower, scores, torch.zeros_like(scores))
    relative = torch.where(lower, relative - relative.diagonal(dim1=1, dim2=2)[:, :, None], torch.zeros_like(relative))
    if float(relative.abs().max()) == 0.0 and (direction == "causal" or float((scores - scores[:, :, :1]).abs().max()) == 0.0):
        return Mask("causal" if direction == "causal" else "full")
    distance = (torch.arange(length)[None, :] - torch.arange(length)[:, None]).double()
    slopes = -relative[:, length - 1, 0] / (length - 1)
    wanted = torch.where(lower, distance * slopes[:, None, None], torch.zeros_like(scores))
    if direction == "full" or float((relative - wanted).abs().max()) > 1e-4 * float(relative.abs().max()):
        raise UnrecognizedError(node, "its mask adds a bias that is no slope of the distance between tokens (ALiBi)")
    return Mask("causal", slopes.float())


def _described(seen: torch.Tensor, lower: torch.Tensor) -> str:
    if not bool((seen & ~lower).any()):
        width = int(seen[-1].sum())
        return f"its mask hides tokens that came before: the last of {len(seen)} sees {width} (a sliding window?)"
    return f"its mask lets {int((seen & ~lower).sum())} of {int((~lower).sum())} pairs see tokens that come after: neither causal nor full"
