"""An attention and the layers around it."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import fx

from edgecc.ir.ops import bound_arguments
from edgecc.targets.gguf.recognition.description import Attention, Linear
from edgecc.targets.gguf.recognition.heads import Heads, read_columns, read_heads
from edgecc.targets.gguf.recognition.mask import read_mask
from edgecc.targets.gguf.recognition.reading import Reader, UnrecognizedError, shape_of, strip


def read_attention(reader: Reader, node: fx.Node, output: Linear) -> Attention:
    """The attention that `node`, a scaled_dot_product_attention, computes, and that `output` reads.

    Heads are put in the order in which those that share a key stand together. Raises UnrecognizedError.
    """
    bound = bound_arguments(node)
    if bound["dropout_p"]:
        raise UnrecognizedError(node, f"it drops {bound['dropout_p']:g} of its weights at random")
    query, key, value = (read_heads(reader, bound[name]) for name in ("query", "key", "value"))
    if value.rope is not None or value.norm is not None:
        raise UnrecognizedError(bound["value"], "values are turned or normed")
    if not _same_turn(query, key):
        raise UnrecognizedError(bound["key"], "queries and keys are turned by different angles")
    sources = {strip(h.linear.source) for h in (query, key, value)}
    if len(sources) > 1:
        raise UnrecognizedError(node, f"queries, keys and values are made of {len(sources)} inputs, want one (no cross attention)")
    width, value_width = query.rows.shape[1], value.rows.shape[1]
    firsts, groups = key.distinct()
    value_firsts, value_groups = value.distinct()
    heads = len(query.rows)
    if len(groups) != heads and (bound["enable_gqa"] or len(groups) == 1):
        groups = groups.repeat_interleave(heads // len(groups))
        value_groups = value_groups.repeat_interleave(heads // len(value_groups))
    if not torch.equal(groups, value_groups):
        raise UnrecognizedError(node, "heads share keys in another way than values")
    if bool((torch.bincount(groups) != heads // len(firsts)).any()):
        raise UnrecognizedError(node, f"groups of heads that share a key have {torch.bincount(groups).tolist()} heads, want equal numbers")
    order = torch.argsort(groups, stable=True)
    columns = read_columns(reader, node, output.call)
    wanted = torch.arange(heads * value_width).view(heads, value_width)[order].flatten()
    scale = bound["scale"] if bound["scale"] is not None else 1 / math.sqrt(shape_of(reader, bound["query"])[-1])
    mask = read_mask(reader, node, heads)
    return Attention(
        node,
        heads,
        len(firsts),
        width,
        value_width,
        query.layer(order),
        key.layer(firsts),
        value.layer(value_firsts),
        _reordered(output, columns, wanted),
        query.norm,
        key.norm,
        query.rope,
        mask if mask.slopes is None else replace(mask, slopes=mask.slopes[order]),
        float(scale),
    )


def _same_turn(query: Heads, key: Heads) -> bool:
    a, b = query.rope, key.rope
    if a is None or b is None:
        return a is b
    return a.equals(b) and torch.equal(query.order, key.order)


def _reordered(output: Linear, columns: torch.Tensor, wanted: torch.Tensor) -> Linear:
    """The layer with its columns in the order `wanted` of what they multiply; `columns` is theirs."""
    order = torch.argsort(columns)[wanted]
    if torch.equal(order, torch.arange(len(order))):
        return output
    return replace(output, columns=order)
