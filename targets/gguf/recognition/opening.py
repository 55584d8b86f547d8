"""Find the tokens of a program: the input that holds them, the call that looks up their rows, and what depends on it."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import fx

from edgecc.ir.fake import size_expression
from edgecc.ir.program import Program
from edgecc.targets.gguf.recognition.positions import are_positions
from edgecc.targets.gguf.recognition.reading import Reader, UnrecognizedError, aten, shape_of, strip

_TYPES = 16  # rows of a table of token types, at most
_FAR = 4100  # tokens: more than most sliding windows


class _Lookup(NamedTuple):
    """A call that looks up rows of a table of `rows`, by the numbers that the input `ids` holds."""

    call: fx.Node
    ids: fx.Node
    rows: int


def open_program(program: Program) -> tuple[Reader, fx.Node]:
    """A reader of the program, and the call that looks up its tokens: of the tables that an input indexes, that with most rows.

    Raises UnrecognizedError where there is none, or one sequence of at least two tokens is not what it takes.
    """
    examples = dict(zip(program.inputs(), program.examples, strict=True))
    found = [lookup for lookup in _lookups(program) if program.is_weight(lookup.call.args[0])]
    if not found:
        raise UnrecognizedError(program.outputs()[0], "no input indexes a table of tokens: this is no language model")
    call, ids, _ = max(found, key=lambda lookup: (not _counts(examples[lookup.ids]), lookup.rows))
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
    reader = Reader(program, frozenset(live), shape[0] if len(shape) == 2 else 1, shape[-1], examples, ids, program.example_sizes())
    return replace(reader, examples=_as_llama_cpp(reader)), call


def _lookups(program: Program) -> list[_Lookup]:
    found = []
    for call in program.calls(aten.embedding.default):
        table, ids = call.args[0], input_of(call.args[1])
        if isinstance(table, fx.Node) and ids is not None:
            found.append(_Lookup(call, ids, int(table.meta["val"].shape[0])))
    return found


def far(reader: Reader) -> Reader | None:
    """The reader with more tokens, as many as the program takes up to 4100; None where their number is fixed, or other inputs have it
    in another shape.
    """
    assert reader.ids is not None
    size = size_expression(reader.ids.meta["val"].shape[-1])
    if isinstance(size, int) or not size.is_Symbol:
        return None
    upper = next((d.upper for d in reader.program.signature.dims if d.symbol == str(size)), None)
    length = min(upper or _FAR, _FAR)
    longer = replace(reader, length=length, sizes={**reader.sizes, str(size): length})
    shapes = {node: shape_of(longer, node) for node in reader.program.inputs()}
    if any(shape != shapes[reader.ids] for node, shape in shapes.items() if shape != tuple(reader.examples[node].shape)):
        return None
    ids = torch.zeros(shapes[reader.ids], dtype=reader.examples[reader.ids].dtype)
    longer = replace(longer, examples={n: ids.to(e.dtype) if shapes[n] == ids.shape else e for n, e in reader.examples.items()})
    return replace(longer, examples=_as_llama_cpp(longer))


def _as_llama_cpp(reader: Reader) -> dict[fx.Node, torch.Tensor]:
    """What inputs besides the tokens are in llama.cpp, where they have a number for each: a mask of ones, types of 0, positions from 0."""
    assert reader.ids is not None
    given = dict(reader.examples)
    shape = given[reader.ids].shape
    for node, example in reader.examples.items():
        if node is reader.ids or example.shape != shape:
            continue
        rows = [lookup.rows for lookup in _lookups(reader.program) if lookup.ids is node]
        positions = torch.arange(shape[-1], dtype=example.dtype).expand(shape).contiguous()
        if rows:
            given[node] = torch.zeros_like(example) if max(rows) <= _TYPES else positions
        else:
            given[node] = positions if are_positions(node.name, example) else torch.ones_like(example)
    return given


def input_of(value: object) -> fx.Node | None:
    """The input that indices come from through views and casts, None where they are computed."""
    node = strip(value)
    while isinstance(node, fx.Node) and node.target in (aten.squeeze.dim, aten.unsqueeze.default):
        node = strip(node.args[0])
    return node if isinstance(node, fx.Node) and node.op == "placeholder" else None


def _counts(example: torch.Tensor) -> bool:
    """Whether an input holds 0 everywhere, or positions from 0."""
    return not bool(example.any()) or torch.equal(example, torch.arange(example.shape[-1]).expand(example.shape))
