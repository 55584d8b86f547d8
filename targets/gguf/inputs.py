"""The inputs of a language model by their names, and samples that llama.cpp can take."""

from __future__ import annotations

from collections.abc import Mapping

from edgecc.ir.program import Program
from edgecc.pipeline.context import Sample
from edgecc.targets.gguf.recognition.opening import open_program
from edgecc.targets.gguf.recognition.reading import UnrecognizedError
from edgecc.targets.gguf.recognition.roles import Role, given, roles_of


def roles(program: Program) -> Mapping[str, Role]:
    """What each input is for, by its name. Raises UnrecognizedError where no input holds tokens."""
    reader, _ = open_program(program)
    assert reader.ids is not None
    found = roles_of(program, reader.ids)
    return {spec.name: found[node] for node, spec in zip(program.inputs(), program.signature.inputs, strict=True)}


def admissible(program: Program, sample: Sample) -> Sample:
    """The sample with what llama.cpp has in the place of a mask, token types and positions.

    As it is where no input holds tokens: `lower` refuses such a program.
    """
    try:
        meant = roles(program)
    except UnrecognizedError:
        return sample
    return tuple(given(role, value) for role, value in zip(meant.values(), sample, strict=True))
