"""What a program is written as, or why it is refused."""

from __future__ import annotations

import torch
from torch import fx

from edgecc.errors import UnsupportedError
from edgecc.ir.program import Program
from edgecc.pipeline.context import PassContext
from edgecc.pipeline.numerics import compare
from edgecc.targets.gguf.architectures.choose import Choice, choose
from edgecc.targets.gguf.recognition.description import LanguageModel
from edgecc.targets.gguf.recognition.model import read_model
from edgecc.targets.gguf.recognition.reading import UnrecognizedError


def recognize(program: Program, allow_approximate: bool, context: PassContext) -> tuple[LanguageModel, Choice]:
    """The model and the architecture that it is written as. Raises UnsupportedError with the first difference."""
    try:
        model = read_model(program)
    except UnrecognizedError as error:
        raise UnsupportedError(
            f"the graph is no model that llama.cpp runs: {error}", hint="edgecc inspect MODEL prints the graph around that node"
        ) from error
    found = choose(model)
    if not isinstance(found, Choice):
        (nearest, difference), *others = found
        also = "".join(f"\n  {a.name}: {d}" for a, d in others[:3])
        raise UnsupportedError(f"no architecture of llama.cpp computes this; the nearest is {nearest.name}: {difference}{also}")
    if found.approximations and not allow_approximate:
        raise UnsupportedError(
            f"llama.cpp's {found.architecture.name} is not quite this model: {found.approximations[0]}\n  {_effect(program, context)}",
            hint="--allow-approximate takes it so",
        )
    return model, found


def refusal(program: Program) -> tuple[fx.Node, str] | None:
    """The first node for which a program is refused, and why; None where an architecture computes the same."""
    try:
        found = choose(read_model(program))
    except UnrecognizedError as error:
        return error.node, error.message
    if not isinstance(found, Choice):
        nearest, difference = found[0]
        return difference.node, f"{difference.found}, {nearest.name} has {difference.wanted}"
    if found.approximations:
        near = found.approximations[0]
        return near.node, f"{near.found}, {found.architecture.name} has {near.wanted}: --allow-approximate takes it so"
    return None


def _effect(program: Program, context: PassContext) -> str:
    """What GELU by tanh does to the outputs."""
    if not context.samples:
        return "its effect was not measured: no sample was run"
    near = program.snapshot()
    for node in near.calls(torch.ops.aten.gelu.default):
        near.retarget(node, torch.ops.aten.gelu.default, node.args[0], approximate="tanh")
    near.recompile()
    moved = compare([program(*s) for s in context.samples], [near(*s) for s in context.samples])
    return (
        f"GELU by tanh moves the outputs by at most {moved.max_abs:.3g} ({moved.relative:.2g} of the largest), "
        f"SQNR {moved.sqnr_db:.1f} dB, cosine {moved.cosine:.8f}, on {len(context.samples)} samples"
    )
