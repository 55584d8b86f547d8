"""Lower a program to a GGUF file, and let its weights be those that the file holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from edgecc.errors import UsageError
from edgecc.ir.program import Program
from edgecc.pipeline.context import PassContext
from edgecc.targeting.base import Lowered
from edgecc.targets.gguf.blocks import FORMATS
from edgecc.targets.gguf.bounds import min_sqnr_db, tolerance
from edgecc.targets.gguf.calibrated import calibrated, calibration
from edgecc.targets.gguf.encode import encoded, weighed
from edgecc.targets.gguf.inputs import roles
from edgecc.targets.gguf.plan import Plan, make_plan
from edgecc.targets.gguf.restore import restore
from edgecc.targets.gguf.rounding.importance import from_moments, read_importance, write_importance
from edgecc.targets.gguf.runtime.runner import MODEL
from edgecc.targets.gguf.writer import Planned, write

if TYPE_CHECKING:
    from edgecc.targets.gguf.target import Gguf

IMATRIX = "imatrix.gguf"


def lower(program: Program, options: Gguf, directory: Path, context: PassContext) -> Lowered:
    """Write model.gguf, or its shards. Raises UsageError for weights that are not finite, and for two sources of what rounding
    goes by."""
    if options.imatrix and context.calibration is not None:
        raise UsageError("--imatrix and --calibration both say what rounding goes by", hint="leave one of them out")
    plan = make_plan(program, options, context)
    keep_first_output(program, context)
    planned = [Planned(t.name, t.shape, plan.formats[t.name].format) for t in plan.tensors]
    written = write(
        directory / MODEL, plan.keys, planned, _data(program, plan, options, directory, context), shard_bytes=options.shard_bytes
    )
    _remark(plan, context)
    restore(program, plan, written, compensated=_rounding(plan, options, context) == "compensated")
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
        "pooling": "none",
        "mixture": options.mixture,
        "rounding": _rounding(plan, options, context),
        "shards": len(written.files),
    }
    first, *rest = (file.name for file in written.files)
    return Lowered(
        first, {"gguf": facts, "threads": options.threads}, rest, lossy=True, tolerance=tolerance(plan), min_sqnr_db=min_sqnr_db(plan)
    )


def _data(program: Program, plan: Plan, options: Gguf, directory: Path, context: PassContext) -> Iterator[torch.Tensor]:
    """The bytes of the tensors: by calibration data, by an importance matrix, or to the nearest. An importance matrix is written
    beside the file where it was made.
    """
    if options.imatrix:
        yield from weighed(program, plan, read_importance(Path(options.imatrix)))
    elif context.calibration is None or not _blocks(plan):
        yield from encoded(program, plan, context.progress, context.workers)
    else:
        by = calibration(program, plan, context.calibration, compensates=options.compensate != "none", progress=context.progress)
        yield from calibrated(by)
        tokens = sum(sample[0].numel() for sample in by.samples)
        matrix = from_moments(by.seen, chunks=len(by.samples), chunk_size=tokens // max(1, len(by.samples)))
        write_importance(directory / IMATRIX, matrix)


def _rounding(plan: Plan, options: Gguf, context: PassContext) -> str:
    if not _blocks(plan):
        return "none"
    if options.imatrix:
        return "importance matrix"
    if context.calibration is None:
        return "nearest"
    return "compensated" if options.compensate != "none" else "importance of calibration data"


def _blocks(plan: Plan) -> bool:
    return any(FORMATS[row.format].block > 1 for row in plan.rows())


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
