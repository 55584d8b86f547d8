"""Lower a program to a GGUF file, and let its weights be those that the file holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgecc.ir.program import Program
from edgecc.pipeline.context import PassContext
from edgecc.targeting.base import Lowered
from edgecc.targets.gguf.bounds import min_sqnr_db, tolerance
from edgecc.targets.gguf.inputs import roles
from edgecc.targets.gguf.plan import Plan, make_plan
from edgecc.targets.gguf.restore import restore
from edgecc.targets.gguf.rounded import rounded
from edgecc.targets.gguf.runtime.runner import MODEL
from edgecc.targets.gguf.writer import Planned, write

if TYPE_CHECKING:
    from edgecc.targets.gguf.target import Gguf


def lower(program: Program, options: Gguf, directory: Path, context: PassContext) -> Lowered:
    """Write model.gguf, or its shards. Raises what make_plan and rounded do, and UsageError for weights that are not finite."""
    plan = make_plan(program, options, context)
    keep_first_output(program, context)
    planned = [Planned(t.name, t.shape, plan.formats[t.name].format) for t in plan.tensors]
    tensors = rounded(program, plan, options, directory, context)
    written = write(directory / MODEL, plan.keys, planned, tensors.data, shard_bytes=options.shard_bytes)
    _remark(plan, context)
    restore(program, plan, written, compensated=tensors.moved)
    program.recompile()
    inputs = roles(program)
    meant = {role: name for name, role in inputs.items()}
    facts = {
        **plan.facts(),
        "fixed": {name: role for name, role in inputs.items() if role in ("types", "positions")},
        "kind": "decoder" if plan.model.head is not None else "encoder",
        "ids": meant["ids"],
        "mask": meant.get("mask", ""),
        "output": program.signature.outputs[0].name,
        "mixture": options.mixture,
        "rounding": tensors.by,
        "notes": [*plan.notes, *tensors.notes],
        "shards": len(written.files),
    }
    first, *rest = (file.name for file in written.files)
    return Lowered(
        first, {"gguf": facts, "threads": options.threads}, rest, lossy=True, tolerance=tolerance(plan), min_sqnr_db=min_sqnr_db(plan)
    )


def keep_first_output(program: Program, context: PassContext) -> None:
    """The result that the file computes is the first one; others are remarked and dropped."""
    outputs = program.outputs()
    for node, spec in list(zip(outputs, program.signature.outputs, strict=True))[1:]:
        context.missed(node, f"the output {spec.name} is not in the file: llama.cpp computes {program.signature.outputs[0].name}")
    if len(outputs) > 1:
        program.keep_outputs(1)


def _remark(plan: Plan, context: PassContext) -> None:
    """Every format that a shape forbade, at the call that multiplies by the tensor."""
    for tensor in plan.tensors:
        choice = plan.formats[tensor.name]
        if choice.wanted != choice.format:
            node = tensor.pieces[0].linear.call if tensor.pieces else plan.model.embeddings.node
            context.missed(node, f"{tensor.name} is {choice.format} instead of {choice.wanted}: {choice.reason}")
