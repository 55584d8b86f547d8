"""Find the tokens of a program: the input that holds them, the call that looks up their rows, and what depends on it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import fx

from edgecc.ir.fake import size_expression
from edgecc.ir.program import Program
from edgecc.targets.gguf.recognition.reading import Reader, UnrecognizedError, shape_of
from edgecc.targets.gguf.recognition.roles import given, lookups, roles_of

_FAR = 4100  # tokens: more than most sliding windows


def open_program(program: Program) -> tuple[Reader, fx.Node]:
    """A reader of the program, and the call that looks up its tokens: of the tables that an input indexes, that with most rows.

    Raises UnrecognizedError where there is none, or one sequence of at least two tokens is not what it takes.
    """
    examples = dict(zip(program.inputs(), program.examples, strict=True))
    found = [lookup for lookup in lookups(program) if program.is_weight(lookup.call.args[0])]
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
    """The examples with what llama.cpp has in the place of inputs besides the tokens, where they have a number for each."""
    assert reader.ids is not None
    roles = roles_of(reader.program, reader.ids)
    shape = reader.examples[reader.ids].shape
    return {node: given(roles[node], e) if e.shape == shape else e for node, e in reader.examples.items()}


def _counts(example: torch.Tensor) -> bool:
    """Whether an input holds 0 everywhere, or positions from 0."""
    return not bool(example.any()) or torch.equal(example, torch.arange(example.shape[-1]).expand(example.shape))
