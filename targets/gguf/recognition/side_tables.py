"""Tables of rows that a model adds to those of its tokens: learned positions, and token types."""

from __future__ import annotations

import torch
from torch import fx

from edgecc.ir import lazy
from edgecc.targets.gguf.recognition.reading import Reader, UnrecognizedError


def side_table(reader: Reader, node: fx.Node) -> tuple[str, fx.Node]:
    """`positions` where what is added are the first rows of a stored table in order, `types` where it is always row 0 of one; the table.

    Raises UnrecognizedError for anything else.
    """
    found = reader.value(node)
    sources = reader.weights_of(node)
    width = node.meta["val"].shape[-1]
    if len(sources) != 1 or found.numel() % (int(width) * reader.length) or found.shape[-1] != width:
        raise UnrecognizedError(node, f"it is added to the rows of the tokens and made of {len(sources)} stored tables, want rows of one")
    (table,) = sources
    stored = lazy.read(reader.program.weight(table)).float()
    rows = found.float().reshape(-1, reader.length, width)
    if stored.shape[-1] != width or bool((rows != rows[:1]).any()):
        raise UnrecognizedError(
            node, f"it is added to the rows of the tokens and made of @{table.target} {list(stored.shape)}, want its rows"
        )
    stored = stored.reshape(-1, width)
    if len(stored) >= reader.length and torch.equal(rows[0], stored[: reader.length]):
        return "positions", table
    if bool((rows[0] == stored[0]).all()):
        return "types", table
    raise UnrecognizedError(node, f"it adds other rows of @{table.target} than the first ones in order: llama.cpp counts positions from 0")
