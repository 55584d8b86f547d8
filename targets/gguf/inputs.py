"""What the inputs of a language model are: tokens, a mask, token types, positions; and samples that llama.cpp can take."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import fx

from edgecc.ir.program import Program
from edgecc.pipeline.context import Sample
from edgecc.targets.gguf.recognition.opening import input_of, open_program
from edgecc.targets.gguf.recognition.positions import are_positions
from edgecc.targets.gguf.recognition.reading import UnrecognizedError

aten = torch.ops.aten
_TYPES = 16  # rows of a table of token types, at most


def roles(program: Program) -> Mapping[str, str]:
    """`ids`, `mask`, `types` or `positions` for each input by name. Raises UnrecognizedError where no input holds tokens."""
    _, call = open_program(program)
    ids = input_of(call.args[1])
    tables: dict[fx.Node, int] = {}
    for node in program.calls(aten.embedding.default):
        source = input_of(node.args[1])
        if source is not None and isinstance(node.args[0], fx.Node):
            tables[source] = int(node.args[0].meta["val"].shape[0])
    found = {}
    for node, spec, example in zip(program.inputs(), program.signature.inputs, program.examples, strict=True):
        if node is ids:
            found[spec.name] = "ids"
        elif node in tables:
            found[spec.name] = "types" if tables[node] <= _TYPES else "positions"
        else:
            found[spec.name] = "positions" if are_positions(spec.name, example) else "mask"
    return found


def admissible(program: Program, sample: Sample) -> Sample:
    """The sample with what llama.cpp gives to every sequence: a mask of ones, token types of 0, positions from 0.

    As it is where no input holds tokens: `lower` refuses such a program.
    """
    try:
        meant = roles(program)
    except UnrecognizedError:
        return sample
    made = []
    for value, spec in zip(sample, program.signature.inputs, strict=True):
        role = meant[spec.name]
        if role == "mask":
            value = torch.ones_like(value)
        elif role == "types":
            value = torch.zeros_like(value)
        elif role == "positions":
            value = torch.arange(value.shape[-1], dtype=value.dtype).expand(value.shape).contiguous()
        made.append(value)
    return tuple(made)
