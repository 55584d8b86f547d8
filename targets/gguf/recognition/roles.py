"""What the inputs of a language model are for, and what llama.cpp has in their place."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import fx

from edgecc.ir.program import Program
from edgecc.targets.gguf.recognition.reading import aten, strip

Role = Literal["ids", "mask", "types", "positions"]
_TYPES = 16  # rows of a table of token types, at most


class Lookup(NamedTuple):
    """A call that looks up rows of a table of `rows`, by the numbers that the input `ids` holds."""

    call: fx.Node
    ids: fx.Node
    rows: int


def lookups(program: Program) -> list[Lookup]:
    found = []
    for call in program.calls(aten.embedding.default):
        table, ids = call.args[0], input_of(call.args[1])
        if isinstance(table, fx.Node) and ids is not None:
            found.append(Lookup(call, ids, int(table.meta["val"].shape[0])))
    return found


def input_of(value: object) -> fx.Node | None:
    """The input that indices come from through views and casts, None where they are computed."""
    node = strip(value)
    while isinstance(node, fx.Node) and node.target in (aten.squeeze.dim, aten.unsqueeze.default):
        node = strip(node.args[0])
    return node if isinstance(node, fx.Node) and node.op == "placeholder" else None


def roles_of(program: Program, ids: fx.Node) -> dict[fx.Node, Role]:
    """Of each input: what indexes a table holds token types where it is small, else positions; anything else is a mask, unless it
    counts.
    """
    rows: dict[fx.Node, int] = {}
    for lookup in lookups(program):
        rows[lookup.ids] = max(lookup.rows, rows.get(lookup.ids, 0))
    found: dict[fx.Node, Role] = {}
    for node, example in zip(program.inputs(), program.examples, strict=True):
        if node is ids:
            found[node] = "ids"
        elif node in rows:
            found[node] = "types" if rows[node] <= _TYPES else "positions"
        else:
            found[node] = "positions" if are_positions(node.name, example) else "mask"
    return found


def are_positions(name: str, example: torch.Tensor) -> bool:
    """Whether an input that indexes no table holds positions, and not a mask: by its name, or by an example that counts from 0.

    Two tokens are too few to tell by: 0 and 1 may be a mask.
    """
    counted = torch.arange(example.shape[-1]) if example.dim() else example
    return "position" in name or (
        example.dim() > 0 and example.shape[-1] > 2 and torch.equal(example.long(), counted.expand(example.shape))
    )


def given(role: Role, example: torch.Tensor) -> torch.Tensor:
    """What llama.cpp has for every sequence: a mask of ones, token types of 0, positions from 0; tokens as they are."""
    if role == "mask":
        return torch.ones_like(example)
    if role == "types":
        return torch.zeros_like(example)
    if role == "positions":
        return torch.arange(example.shape[-1], dtype=example.dtype).expand(example.shape).contiguous()
    return example
