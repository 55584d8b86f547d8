"""Compile: trace, rewrite, check support, lower, run on the real runtime, compare, and write the run directory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from edgecc import artifact, data, reference, speedup, verification
from edgecc.analysis.cost import cost
from edgecc.assembly import TRAIN, checks, pipeline_of
from edgecc.bounds import bounds_of
from edgecc.diagnostics import Progress, Silent
from edgecc.errors import CaptureError, ContractError, UsageError
from edgecc.ir.program import Program
from edgecc.ir.signature import TensorSpec
from edgecc.options import CompileOptions
from edgecc.pipeline import manager
from edgecc.pipeline.base import REORDERED
from edgecc.pipeline.context import PassContext, Sample
from edgecc.pipeline.instruments import Dump, Instrument, Step
from edgecc.pipeline.numerics import compare, rounding, widened
from edgecc.quantization import layers as quantized_layers
from edgecc.recipe import Recipe
from edgecc.registry import Registry
from edgecc.report import RecordCost, Report
from edgecc.targeting import support
from edgecc.targeting.base import Lowered, Target
from edgecc.targeting.packages import installed
from edgecc.training.task import Task

Eager = Callable[..., tuple[torch.Tensor, ...]]


@dataclass(frozen=True)
class CompileResult:
    """`artifact` is the run directory, `program` what was lowered."""

    artifact: Path
    report: Report
    program: Program


@dataclass(frozen=True)
class Job:
    """One compile: a traced program, the original model as a function of its flat inputs, and where to. `samples` are checked
    beside the seeded ones, `calibration` is what ranges come from, `evaluate` says how good a program is, `training` is what
    quantized programs are trained on, `text` what a language model is assessed on. `directory` is the folder of the model,
    `workers` how many processes may work at once.
    """

    program: Program
    original: Eager
    target: Target
    recipe: Recipe
    registry: Registry
    output: Path
    overwrite: bool = False
    instruments: Sequence[Instrument] = ()
    samples: Sequence[Sample] = ()
    calibration: Iterable[Sample] | None = None
    evaluate: Callable[[Program], float] | None = None
    training: Task | None = None
    text: Iterable[Sample] | None = None
    directory: Path | None = None
    workers: int = 1
    progress: Progress = field(default_factory=Silent)


def compile_job(job: Job) -> CompileResult:
    """Raises ContractError where the artifact differs from the model, or from what training made of it, UnsupportedError for
    operators that the target lacks, RefusedError for an existing output. On any error nothing is left at `output`.
    """
    options = job.recipe.options
    artifact.check_output(job.output, overwrite=job.overwrite)
    with artifact.staged(job.output, overwrite=job.overwrite) as directory, one_thread():
        report, context, outputs, before = _rewrite(job, [Dump(directory / "ir")] if options.dump_ir else [])
        job.progress.step(f"lowering for {job.target.name}")
        lowered = timed(report, "lower", lambda: job.target.lower(job.program, directory, context))
        report.model_bytes = sum((directory / name).stat().st_size for name in (lowered.deployable, *lowered.beside))
        report.memory, report.facts = lowered.facts.get("memory"), lowered.facts
        names = [s.name for s in job.program.signature.inputs], [s.name for s in job.program.signature.outputs]
        outputs = [found[: len(names[1])] for found in outputs]  # those that the target kept
        reference.write(directory / "reference", names, context.samples, outputs)
        (directory / "recipe.toml").write_text(job.recipe.to_toml())
        bounds = bounds_of(job.program, job.target, options, context.samples, outputs, lowered)
        manifest = _manifest(job, lowered, directory, bounds)
        artifact.write_json(directory / "manifest.json", manifest)
        if options.verify != "off":
            timed(report, "verify", lambda: _verify(job, directory, manifest, report, context, bounds))
        if options.speedup:
            timed(report, "speedup", lambda: _compare_speed(job, before, directory, manifest, report, context))
        report.verdict = job.target.verdict(lowered.facts, report.checks[0].distance if report.checks else None)
        report.write(directory)
    return CompileResult(job.output, report, job.program)


def rewrite_job(job: Job) -> Report:
    """Run the pipeline and, unless it stops early, check that the target can lower the result; lower nothing.

    Nothing is written but `ir/` at `job.output`, where the options ask for a dump.
    """
    with one_thread():
        if not job.recipe.options.dump_ir:
            return _previewed(job, [])
        with artifact.staged(job.output, overwrite=job.overwrite) as directory:
            return _previewed(job, [Dump(directory / "ir")])


def _previewed(job: Job, dumps: Sequence[Instrument]) -> Report:
    """With what the target would write, where the pipeline went to its end."""
    report, context, _, _ = _rewrite(job, dumps)
    if not job.recipe.options.stop_after:
        report.facts = job.target.preview(job.program, context)
    return report


Rewritten = tuple[Report, PassContext, list[tuple[torch.Tensor, ...]], Program | None]


def _rewrite(job: Job, dumps: Sequence[Instrument]) -> Rewritten:
    """The report, the context, the original model's outputs, and the program before it was quantized, None where it was not."""
    options = job.recipe.options
    pipeline = pipeline_of(job.target, options, job.registry)
    if job.training is None and any(p.name == TRAIN for p in pipeline.passes()):
        raise UsageError(f"{TRAIN} has no data to train on", hint="--qat module:function")
    report, context, outputs = begin(job)
    score = _evaluated(job, context, "the original model")
    kept = KeepFloat()
    instruments = [*checks(options), RecordCost(), *job.instruments, *dumps, kept]
    report.steps = timed(report, "passes", lambda: manager.run(pipeline, job.program, context, instruments))
    report.compiled = cost(job.program)
    report.training = context.facts.pop("training", None)
    _check_effect(report, options)
    if kept.program and kept.quantized and not options.stop_after:
        timed(report, "quantization", lambda: _summarize(job, kept.program, kept.quantized, report, context))
    if score is not None:
        report.evaluation = _compared(score, _evaluated(job, context, "the compiled program"), options)
    if kept.trained:
        outputs = [kept.trained(*sample) for sample in context.samples]
    context.origin = job.target.name
    if not options.stop_after:
        support.check(job.program, job.target.capabilities(), job.target.name)
    return report, context, outputs, kept.program


def begin(job: Job) -> tuple[Report, PassContext, list[tuple[torch.Tensor, ...]]]:
    """Run the original model on the samples and check that tracing kept its values.

    Raises CaptureError where it did not: the model is random or depends on values that tracing fixed.
    """
    options = job.recipe.options
    chosen = checked(job)
    report = Report(cost(job.program))
    limit = options.max_drop if options.max_drop >= 0 else None
    context = PassContext(
        chosen,
        options.seed,
        report.remarks,
        job.progress,
        calibration=job.calibration,
        evaluate=job.evaluate,
        max_drop=limit,
        directory=job.directory,
        workers=job.workers,
    )
    if job.training is not None:
        context.training, context.original = job.training, job.program.snapshot()
    job.progress.step("running the original model")
    outputs = [_run_original(job, sample) for sample in chosen]
    promise = widened(REORDERED, rounding(job.program.dtypes()))
    why = compare(outputs, [job.program(*sample) for sample in chosen]).broken(promise) if options.verify != "off" else ""
    if why:
        raise CaptureError(
            f"the traced program does not compute what the model computes: {why}",
            hint="does the model draw random numbers or branch on values of tensors?",
        )
    return report, context, outputs


def checked(job: Job) -> list[Sample]:
    """The samples that everything is compared on: seeded ones and those of the job, or the first ones of calibration data.

    Random inputs may lie far outside of calibrated ranges; where a dimension is dynamic they are checked too, for its sizes.
    """
    options = job.recipe.options
    seeded = data.samples(job.program, seed=options.seed, count=options.cases)
    if job.calibration is None:
        found = [*seeded, *job.samples]
    else:
        found = [*islice(job.calibration, options.cases), *job.samples, *(seeded if job.program.signature.dims else ())]
    return [job.target.admissible(job.program, sample) for sample in found]


def _run_original(job: Job, sample: Sample) -> tuple[torch.Tensor, ...]:
    try:
        return job.original(*sample)
    except Exception as error:  # the user's own forward may raise anything
        given = ", ".join(
            str(TensorSpec(s.name, t.dtype, tuple(t.shape))) for s, t in zip(job.program.signature.inputs, sample, strict=True)
        )
        raise UsageError(
            f"the PyTorch model itself fails on {given}: {type(error).__name__}: {error}",
            hint="are the dtypes of --input those that the model takes, and the bounds of its dynamic dimensions?",
        ) from error


class KeepFloat(Instrument):
    """Keeps the program as it was before anything was quantized, once it is trained, and with its q/dq nodes before they are
    lowered.
    """

    def __init__(self) -> None:
        self.program: Program | None = None
        self.quantized: Program | None = None
        self.trained: Program | None = None
        self._last: Program | None = None

    def start(self, program: Program, context: PassContext) -> None:
        self._last = program.snapshot()

    def after(self, step: Step, program: Program, context: PassContext) -> None:
        if step.pass_.name == "insert-fake-quant":
            self.program = self.program or self._last
            self.quantized = program.snapshot()  # where there are codes alone, nothing is left to finalize
        elif step.pass_.name == TRAIN:
            self.trained = program.snapshot()
        elif step.pass_.name == "finalize-quant":
            self.quantized = program.snapshot()
        elif self.program is None:
            self._last = program.snapshot()


def _summarize(job: Job, before: Program | None, after: Program | None, report: Report, context: PassContext) -> None:
    assert before is not None and after is not None
    job.progress.step("measuring each quantized layer")
    seen = context.samples if job.calibration is None else list(islice(job.calibration, quantized_layers.SAMPLES))
    summary = quantized_layers.summarize(before, after, seen)
    report.quantization = {
        "scheme": job.recipe.options.quant or None,
        "data": "seeded inputs" if job.calibration is None else "calibration",
        **summary.as_dict(),
        **context.facts,
    }


def _check_effect(report: Report, options: CompileOptions) -> None:
    """Raises ContractError where the options ask for quantization and nothing was quantized."""
    steps = [s for s in report.steps if s.pass_.name == "insert-fake-quant"]
    if not options.quant or not steps or any(s.rewrites for s in steps):
        return
    reasons = [str(r) for r in report.remarks.of("insert-fake-quant", "missed")] or ["the model has no layer that multiplies by weights"]
    raise ContractError(
        f"--quant {options.quant} quantized nothing:\n  " + "\n  ".join(reasons[:8]), hint="leave --quant out, or look at --quant-layer"
    )


def _evaluated(job: Job, context: PassContext, what: str) -> float | None:
    if context.evaluate is None:
        return None
    job.progress.step(f"evaluating {what}")
    return context.evaluate(job.program)


def _compared(before: float, after: float | None, options: CompileOptions) -> dict[str, float]:
    """Raises ContractError where more was lost than the options allow."""
    assert after is not None
    if 0 <= options.max_drop < before - after:
        raise ContractError(
            f"the evaluation fell from {before:g} to {after:g}, by {before - after:g}: more than --max-drop {options.max_drop:g}",
            hint="--quant-with assign-precision keeps the layers that lose most in higher precision",
        )
    return {"original": before, "compiled": after, "drop": before - after}


def _verify(job: Job, directory: Path, manifest: dict[str, Any], report: Report, context: PassContext, bounds: tuple[float, float]) -> None:
    job.progress.step("running the artifact and comparing it with the original model")
    report.checks = verification.run_checks(job.target.runners(directory, manifest), directory)
    report.agreement = job.target.agreement(job.program, directory, manifest, context.samples)
    if report.agreement and (lines := report.agreement.broken()):
        raise verification.disagreement(lines, job.target.name)
    report.assessment = job.target.assess(directory, manifest, job.original, job.text, job.directory)
    tolerance, sqnr = bounds
    lines = verification.broken(report.checks, tolerance, sqnr)
    if lines:
        sample = context.samples[0]
        place = job.target.locate(job.program, sample) or verification.locate(job.program, job.target, sample, tolerance)
        raise verification.mismatch(lines, place, job.target.name)


def _compare_speed(
    job: Job, before: Program | None, directory: Path, manifest: dict[str, Any], report: Report, context: PassContext
) -> None:
    if before is None:
        raise UsageError("there is no quantization whose speed could be compared", hint="--quant int8")
    job.progress.step("timing the artifact beside the model in floating point")
    found = speedup.measure(job.target, before, directory, manifest, context.samples[0])
    report.speedup = found.as_dict()
    speedup.judge(found, job.recipe.options.speedup == "require", report.remarks, job.target.name)


def _manifest(job: Job, lowered: Lowered, directory: Path, bounds: tuple[float, float]) -> dict[str, Any]:
    return {
        "schema": artifact.SCHEMA,
        "target": job.target.name,
        "target_options": asdict(job.target),
        "model": job.recipe.model,
        "command": "edgecc compile --recipe recipe.toml" if job.recipe.model else "edgecc.compile(...)",
        "deployable": lowered.deployable,
        **({"beside": list(lowered.beside)} if lowered.beside else {}),
        **verification.describe_interface(job.program.signature),
        "seed": job.recipe.options.seed,
        **dict(zip(("tolerance", "min_sqnr_db"), bounds, strict=True)),
        "facts": dict(lowered.facts),
        "versions": {name: installed(name) or "source" for name in ("edgecc", "torch", "numpy")},
        "files": artifact.digests(directory),
    }


def timed(report: Report, what: str, work: Callable[[], Any]) -> Any:
    began = time.perf_counter()
    result = work()
    report.seconds[what] = time.perf_counter() - began
    return result


@contextmanager
def one_thread() -> Iterator[None]:
    """Run PyTorch on one thread: reductions split over threads would round differently with another number of them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
