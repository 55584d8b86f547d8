"""The mask of an attention, read from its values."""

from __future__ import annotations

import torch
from torch import fx

from edgecc.ir.ops import bound_arguments
from edgecc.targets.gguf.recognition.description import Mask
from edgecc.targets.gguf.recognition.opening import far
from edgecc.targets.gguf.recognition.reading import Reader, UnrecognizedError

_LINEAR = 1e-4  # of the largest bias: a thousand times what float32 leaves of a product, and far less than any other bias is away
_HIDDEN = -1e4  # a score below this is no attention: masks hold -inf, the least float, -1e9 or -65504


def read_mask(reader: Reader, node: fx.Node, heads: int) -> Mask:
    """The mask of a scaled_dot_product_attention. Raises UnrecognizedError for a window, a bias of positions, and others."""
    bound = bound_arguments(node)
    given = bound["attn_mask"]
    if given is None:
        return Mask("causal" if bound["is_causal"] else "full")
    if given in reader.live:
        raise UnrecognizedError(node, "its mask depends on the tokens")
    if (given, heads) not in reader.masks:
        found = _read(node, _scores(reader, node, given, heads))
        longer = far(reader)
        if longer is not None and longer.length > reader.length:
            _check_far(node, _seen(longer, node, given), found)
        reader.masks[given, heads] = found
    return reader.masks[given, heads]


def _scores(reader: Reader, node: fx.Node, mask: fx.Node, heads: int) -> torch.Tensor:
    """What is added to the scores, -inf where nothing is seen: [heads, queries, keys] f64."""
    found = reader.value(mask)
    scores = torch.zeros(found.shape, dtype=torch.float64).masked_fill(~found, -torch.inf) if found.dtype == torch.bool else found.double()
    scores = scores[None] if scores.dim() == 3 else scores
    try:
        scores = scores.expand(reader.batch, heads, reader.length, reader.length)
    except RuntimeError as error:
        wanted = [reader.batch, heads, reader.length, reader.length]
        raise UnrecognizedError(node, f"its mask has shape {list(found.shape)}, want {wanted} or what spreads to it") from error
    if not torch.equal(scores, scores[:1].expand_as(scores)):
        raise UnrecognizedError(node, "its mask differs between the sequences of a batch")
    return scores[0]


def _read(node: fx.Node, scores: torch.Tensor) -> Mask:
    seen = scores > _HIDDEN
    lower = torch.ones_like(scores[0], dtype=torch.bool).tril()
    if bool((seen == lower).all()):
        return _biased(node, scores)
    if not bool(seen.all()):
        unlike = next(head for head in seen if not torch.equal(head, lower))
        raise UnrecognizedError(node, _described(unlike, lower))
    if bool((scores != scores[:, :, :1]).any()):
        raise UnrecognizedError(node, "its mask adds a bias of positions to the scores, and hides nothing")
    return Mask("full")


def _biased(node: fx.Node, scores: torch.Tensor) -> Mask:
    """With what is added to the scores of tokens that are seen: nothing, or a slope for each position of distance."""
    length = scores.shape[-1]
    lower = torch.ones_like(scores[0], dtype=torch.bool).tril()
    relative = torch.where(lower, scores - scores.diagonal(dim1=1, dim2=2)[:, :, None], 0.0)
    if not bool(relative.any()):
        return Mask("causal")
    distance = (torch.arange(length)[None, :] - torch.arange(length)[:, None]).double()
    slopes = -relative[:, length - 1, 0] / (length - 1)
    wanted = torch.where(lower, distance * slopes[:, None, None], 0.0)
    if float((relative - wanted).abs().max()) > _LINEAR * float(relative.abs().max()):
        raise UnrecognizedError(node, "its mask adds a bias that is no slope of the distance between tokens (ALiBi)")
    return Mask("causal", slopes.float())


def _described(seen: torch.Tensor, lower: torch.Tensor) -> str:
    if not bool((seen & ~lower).any()):
        width = int(seen[-1].sum())
        return f"its mask hides tokens that came before: the last of {len(seen)} sees {width} (a sliding window?)"
    return f"its mask lets {int((seen & ~lower).sum())} of {int((~lower).sum())} pairs see tokens that come after: neither causal nor full"


def _seen(reader: Reader, node: fx.Node, mask: fx.Node) -> torch.Tensor:
    """What the first head of the first sequence sees, [queries, keys] bool."""
    found: torch.Tensor = reader.value(mask)
    seen = found if found.dtype == torch.bool else found > _HIDDEN
    first = seen[(0,) * (seen.dim() - 2)]
    return first.expand(reader.length, reader.length)


def _check_far(node: fx.Node, seen: torch.Tensor, found: Mask) -> None:
    """Raises UnrecognizedError where more tokens than the examples have are seen otherwise."""
    same = bool(seen.all()) if found.direction == "full" else torch.equal(seen, torch.ones_like(seen).tril())
    if not same:
        raise UnrecognizedError(
            node,
            f"with {len(seen)} tokens its mask is another than with those of the examples: the last sees {int(seen[-1].sum())} (a sliding window?)",
        )
