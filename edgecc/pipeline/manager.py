"""Run a pipeline over a program: passes in order, instruments around them, nothing else."""

from __future__ import annotations

import time
from collections.abc import Sequence

from edgecc.errors import EdgeccError, InternalError
from edgecc.ir.program import Program
from edgecc.pipeline.context import PassContext
from edgecc.pipeline.instruments import Instrument, Step
from edgecc.pipeline.spec import Pipeline


def run(pipeline: Pipeline, program: Program, context: PassContext, instruments: Sequence[Instrument] = ()) -> list[Step]:
    """Rewrite `program` in place and return a step for each pass that ran.

    After a pass that changed something, weights that it left unused are dropped. An error of a pass names the pass;
    one that is not an EdgeccError becomes an InternalError.
    """
    steps: list[Step] = []
    for instrument in instruments:
        instrument.start(program, context)
    numbered = enumerate(((phase.name, p) for phase in pipeline.phases for p in phase.passes), start=1)
    for index, (phase, pass_) in numbered:
        step = Step(index, phase, pass_)
        steps.append(step)
        context.origin = pass_.name
        context.progress.step(f"{phase}: {pass_.name}" if phase else pass_.name)
        _run_one(step, program, context)
        if step.rewrites:
            for instrument in instruments:
                instrument.after(step, program, context)
        if any(instrument.stop(step) for instrument in instruments):
            break
    return steps


def _run_one(step: Step, program: Program, context: PassContext) -> None:
    began = time.perf_counter()
    try:
        step.rewrites = step.pass_.run(program, context)
    except EdgeccError:
        raise
    except Exception as error:  # a pass may be the user's own; whatever it raises is reported as its failure
        raise InternalError(
            f"pass {step.pass_.name!r} failed: {type(error).__name__}: {error}", hint=f"--disable-pass {step.pass_.name}"
        ) from error
    if step.rewrites:
        program.drop_unused_weights()
        program.recompile()
    step.seconds = time.perf_counter() - began
