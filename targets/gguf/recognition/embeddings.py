"""The table of tokens, and what else a model adds to its rows before the first layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from edgecc.ir.program import Program
from edgecc.targets.gguf.recognition.description import Embeddings, Norm
from edgecc.targets.gguf.recognition.reading import Reader, UnrecognizedError, aten, norm_at, strip


def open_program(program: Program) -> tuple[Reader, fx.Node]:
    """A reader of the program, and the call that looks up its tokens: of the tables that an input indexes, that with most rows.

    Raises UnrecognizedError where there is none, or one sequence of at least two tokens is not what it takes.
    """
    calls = [n for n in program.calls(aten.embedding.default) if program.is_weight(n.args[0]) and input_of(n.args[1]) is not None]
    if not calls:
        raise UnrecognizedError(program.outputs()[0], "no input indexes a table of tokens: this is no language model")
    call = max(calls, key=lambda n: n.args[0].meta["val"].shape[0])  # type: ignore[union-attr]
    ids = input_of(call.args[1])
    examples = dict(zip(program.inputs(), program.examples, strict=True))
    shape = examples[ids].shape
    if len(shape) not in (1, 2) or shape[-1] < 2:
        raise UnrecognizedError(
            call, f"its tokens are an example of shape {list(shape)}, want [sequences, tokens] with at least two tokens"
        )
    live = {call}
    for node in program.graph.nodes:
        if any(operand in live for operand in node.all_input_nodes):
            live.add(node)
    return Reader(program, frozenset(live), shape[0] if len(shape) == 2 else 1, shape[-1]), call


def input_of(value: Any) -> Any:
    """The input that indices come from through views and casts, None where they are computed."""
    node = strip(value)
    while isinstance(node, fx.Node) and node.target in (aten.squeeze.dim, aten.unsqueeze.default):
        node = strip(node.args[0])
    return node if isinstance(node, fx.Node) and node.op == "placeholder" else None


def read_embeddings(reader: Reader, node: fx.Node, call: fx.Node) -> Embeddings:
    """What makes the input of the first layer at `node`, from the tokens looked up by `call`.

    Raises UnrecognizedError for anything but a sum with learned positions and with one row of token types, a factor, and a norm.
    """
    norm: Norm | None = None
    at = strip(node)
    if (found := norm_at(at)) is not None:
        norm, at = found, strip(at.args[0])
    scale, positions, types = 1.0, None, None
    pending = [at]
    tokens = None
    while pending:
        term = strip(pending.pop())
        if term is call:
            tokens = call.args[0]
        elif term in reader.live and term.target is aten.add.Tensor and not term.kwargs:
            pending += [a for a in term.args if isinstance(a, fx.Node)]
        elif term in reader.live and term.target is aten.mul.Tensor and strip(term.args[0]) is call and _number(reader, term.args[1]):
            scale *= _number(reader, term.args[1])
            tokens = call.args[0]
        elif term.target is aten.embedding.default and term not in reader.live:
            table, which = _side_table(reader, term)
            if which == "positions" and positions is None:
                positions = table
            elif which == "types" and types is None:
                types = table
            else:
                raise UnrecognizedError(term, f"a second table of {which}")
        else:
            raise UnrecognizedError(term, "it is added to the rows of the tokens, and is neither learned positions nor token types")
    assert isinstance(tokens, fx.Node)
    ids = input_of(call.args[1])
    assert isinstance(ids, fx.Node)
    return Embeddings(call, ids, tokens, positions, types, norm, scale)


def _number(reader: Reader, value: Any) -> float:
    """A constant factor, 0 where it is none."""
    if isinstance(value, fx.Node):
        found = reader.value(value) if value not in reader.live else None
        return float(found) if isinstance(found, torch.Tensor) and found.numel() == 1 else 0.0
    return float(value)


def _side_table(reader: Reader, node: fx.Node) -> tuple[fx.Node, str]:
    """The table, and whether it is indexed by the positions 0, 1, ... or always by row 0."""
    table = node.args[0]
    if not reader.program.is_weight(table):
        raise UnrecognizedError(node, "a table that is computed, want a stored one")
    assert isinstance(table, fx.Node)
    indices = reader.value(node.args[1])
    row = indices.reshape(-1, reader.length)[0] if indices.numel() % reader.length == 0 else indices.flatten()
    if torch.equal(row, torch.arange(reader.length)):
        return table, "positions"
    if not bool(row.any()):
        return table, "types"
    if input_of(node.args[1]) is not None:
        return table, "types" if table.meta["val"].shape[0] <= 16 else "positions"
    raise UnrecognizedError(node, f"its rows are {row[:4].tolist()}, ...: llama.cpp counts positions from 0")
