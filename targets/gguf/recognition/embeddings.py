"""The table of tokens, and what else a model adds to its rows before the first layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from edgecc.ir.ops import operator_name
from edgecc.ir.program import Program
from edgecc.targets.gguf.recognition.description import Embeddings
from edgecc.targets.gguf.recognition.ports import plain
from edgecc.targets.gguf.recognition.reading import Reader, UnrecognizedError, aten, norm_at, norm_input, strip
from edgecc.targets.gguf.recognition.side_tables import side_table
from edgecc.targets.gguf.recognition.straight import is_linear

_TYPES = 16  # rows of a table of token types, at most


def open_program(program: Program) -> tuple[Reader, fx.Node]:
    """A reader of the program, and the call that looks up its tokens: of the tables that an input indexes, that with most rows.

    Raises UnrecognizedError where there is none, or one sequence of at least two tokens is not what it takes.
    """
    examples = dict(zip(program.inputs(), program.examples, strict=True))
    calls = [n for n in program.calls(aten.embedding.default) if program.is_weight(n.args[0]) and input_of(n.args[1]) is not None]
    if not calls:
        raise UnrecognizedError(program.outputs()[0], "no input indexes a table of tokens: this is no language model")
    call = max(calls, key=lambda n: (not _counts(examples[input_of(n.args[1])]), n.args[0].meta["val"].shape[0]))  # type: ignore[union-attr]
    ids = input_of(call.args[1])
    shape = examples[ids].shape
    if len(shape) not in (1, 2) or shape[-1] < 2:
        raise UnrecognizedError(
            call, f"its tokens are an example of shape {list(shape)}, want [sequences, tokens] with at least two tokens"
        )
    if len(shape) == 2 and shape[0] == shape[1]:
        raise UnrecognizedError(call, f"its tokens are an example of {shape[0]} sequences of {shape[1]} tokens, want two different numbers")
    live = {call}
    for node in program.graph.nodes:
        if not isinstance(node.meta.get("val"), torch.SymInt) and any(operand in live for operand in node.all_input_nodes):
            live.add(node)
    given = {node: _as_llama_cpp(program, node, value, shape) if node is not ids else value for node, value in examples.items()}
    return Reader(program, frozenset(live), shape[0] if len(shape) == 2 else 1, shape[-1], given), call


def _as_llama_cpp(program: Program, node: fx.Node, example: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """What an input besides the tokens is in llama.cpp: a mask of ones, token types of 0, positions from 0."""
    if example.shape != shape:
        return example
    tables = [n.args[0] for n in program.calls(aten.embedding.default) if input_of(n.args[1]) is node]
    rows = [int(t.meta["val"].shape[0]) for t in tables if isinstance(t, fx.Node)]
    if not rows:
        return torch.ones_like(example)
    positions = torch.arange(shape[-1], dtype=example.dtype).expand(shape)
    return torch.zeros_like(example) if max(rows) <= _TYPES else positions.contiguous()


def input_of(value: Any) -> Any:
    """The input that indices come from through views and casts, None where they are computed."""
    node = strip(value)
    while isinstance(node, fx.Node) and node.target in (aten.squeeze.dim, aten.unsqueeze.default):
        node = strip(node.args[0])
    return node if isinstance(node, fx.Node) and node.op == "placeholder" else None


def _counts(example: torch.Tensor) -> bool:
    """Whether an input holds 0 everywhere, or positions from 0."""
    return not bool(example.any()) or torch.equal(example, torch.arange(example.shape[-1]).expand(example.shape))


def read_embeddings(reader: Reader, node: fx.Node, call: fx.Node) -> Embeddings:
    """What makes the input of the first layer at `node`, from the tokens looked up by `call`.

    Raises UnrecognizedError for anything but a sum with learned positions and with one row of token types, a factor, and a norm.
    """
    at = plain(reader, node)
    norm = norm_at(at, reader)
    pending = [at if norm is None else plain(reader, norm_input(norm))]
    scales: list[float] = []
    tables: dict[str, fx.Node] = {}
    while pending:
        term = plain(reader, pending.pop())
        if term in reader.live and term.target is aten.add.Tensor and not term.kwargs:
            pending += [a for a in term.args if isinstance(a, fx.Node)]
            if len(term.all_input_nodes) != 2:
                raise UnrecognizedError(term, "it adds a number to the rows of the tokens, or adds them to themselves")
        elif (scale := _scale(reader, term, call)) is not None:
            scales.append(scale)
        elif term not in reader.live:
            which, table = side_table(reader, term)
            if which in tables:
                raise UnrecognizedError(term, f"a second table of {which}")
            tables[which] = table
        else:
            raise UnrecognizedError(
                term,
                f"{operator_name(term.target)} stands between the rows of the tokens and the first layer, want sums with stored tables",
            )
    if len(scales) != 1:
        raise UnrecognizedError(at, f"the rows of the tokens are added {len(scales)} times")
    tokens, ids = call.args[0], input_of(call.args[1])
    assert isinstance(tokens, fx.Node) and isinstance(ids, fx.Node)
    return Embeddings(call, ids, tokens, tables.get("positions"), tables.get("types"), norm, scales[0])


def _scale(reader: Reader, term: fx.Node, call: fx.Node) -> float | None:
    """The constant that multiplies the tokens' rows, None where it is something else than these."""
    if term is call:
        return 1.0
    if term.target not in (aten.mul.Tensor, aten.div.Tensor) or not is_linear(term, reader.live):
        return None
    first, second = term.args
    if second in reader.live and term.target is aten.mul.Tensor:
        first, second = second, first
    if not isinstance(first, fx.Node) or plain(reader, first) is not call:
        return None
    factor = torch.as_tensor(reader.value(second))
    if factor.numel() != 1 or not float(factor):
        return None
    return float(factor) if term.target is aten.mul.Tensor else 1 / float(factor)
