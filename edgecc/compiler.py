"""Compile: trace, rewrite, check support, lower, run on the real runtime, compare, and write the run directory."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from edgecc import artifact, data, reference, verification
from edgecc.analysis.cost import cost
from edgecc.diagnostics import Progress, Silent, nearest
from edgecc.errors import CaptureError, UsageError
from edgecc.ir.program import Program
from edgecc.ir.quantized import is_float8, is_quantize
from edgecc.ir.signature import TensorSpec
from edgecc.options import CompileOptions
from edgecc.pipeline import manager
from edgecc.pipeline.base import REORDERED
from edgecc.pipeline.context import PassContext, Sample
from edgecc.pipeline.instruments import Dump, Instrument, StopAfter, VerifyNumerics, VerifyStructure
from edgecc.pipeline.numerics import compare, rounding, widened
from edgecc.pipeline.spec import Pipeline, parse
from edgecc.recipe import Recipe
from edgecc.registry import Registry
from edgecc.report import RecordCost, Report
from edgecc.targeting import support
from edgecc.targeting.base import Lowered, Target

Eager = Callable[..., tuple[torch.Tensor, ...]]
#: Tolerance for the largest difference of a program that quantizes activations, and SQNR in dB for all of them (a cosine of
#: 0.99). A sum that float32 rounds otherwise may fall into the next step of 127, which moves every number after it: PyTorch
#: differs so from itself. Where the target can, each call is compared besides (`Target.agreement`).
QUANTIZED = 0.2, 17.0
#: The same in half precision, whose roundings move most integers of deep layers: MiniLM's float32 program in PyTorch is 0.17 and
#: 8 dB from itself with every result rounded to float16, as far as it is from the model that is not quantized.
QUANTIZED_HALF = 0.5, 6.0


@dataclass(frozen=True)
class CompileResult:
    """`artifact` is the run directory, `program` what was lowered."""

    artifact: Path
    report: Report
    program: Program


@dataclass(frozen=True)
class Job:
    """One compile: a traced program, the original model as a function of its flat inputs, and where to."""

    program: Program
    original: Eager
    target: Target
    recipe: Recipe
    registry: Registry
    output: Path
    overwrite: bool = False
    instruments: Sequence[Instrument] = ()
    samples: Sequence[Sample] = ()
    progress: Progress = field(default_factory=Silent)


def compile_job(job: Job) -> CompileResult:
    """Raises ContractError where the artifact differs from the model, UnsupportedError for operators that the target
    lacks, RefusedError for an existing output. On any error nothing is left at `output`.
    """
    options = job.recipe.options
    artifact.check_output(job.output, overwrite=job.overwrite)
    with artifact.staged(job.output, overwrite=job.overwrite) as directory, one_thread():
        report, context, outputs = _rewrite(job, [Dump(directory / "ir")] if options.dump_ir else [])
        job.progress.step(f"lowering for {job.target.name}")
        lowered = timed(report, "lower", lambda: job.target.lower(job.program, directory, context))
        report.model_bytes = sum((directory / name).stat().st_size for name in (lowered.deployable, *lowered.beside))
        report.memory, report.facts = lowered.facts.get("memory"), lowered.facts
        names = [s.name for s in job.program.signature.inputs], [s.name for s in job.program.signature.outputs]
        reference.write(directory / "reference", names, context.samples, outputs)
        (directory / "recipe.toml").write_text(job.recipe.to_toml())
        manifest = _manifest(job, lowered, directory)
        artifact.write_json(directory / "manifest.json", manifest)
        if options.verify != "off":
            timed(report, "verify", lambda: _verify(job, directory, manifest, report, context))
        report.verdict = job.target.verdict(lowered.facts, report.checks[0].distance if report.checks else None)
        report.write(directory)
    return CompileResult(job.output, report, job.program)


def rewrite_job(job: Job) -> Report:
    """Run the pipeline and, unless it stops early, check that the target can lower the result; lower nothing.

    Nothing is written but `ir/` at `job.output`, where the options ask for a dump.
    """
    with one_thread():
        if not job.recipe.options.dump_ir:
            return _rewrite(job, [])[0]
        with artifact.staged(job.output, overwrite=job.overwrite) as directory:
            return _rewrite(job, [Dump(directory / "ir")])[0]


def _rewrite(job: Job, dumps: Sequence[Instrument]) -> tuple[Report, PassContext, list[tuple[torch.Tensor, ...]]]:
    options = job.recipe.options
    pipeline = edited(job.target.pipeline(), options, job.registry)
    report, context, outputs = begin(job)
    instruments = [*checks(options), RecordCost(), *job.instruments, *dumps]
    report.steps = timed(report, "passes", lambda: manager.run(pipeline, job.program, context, instruments))
    report.compiled = cost(job.program)
    context.origin = job.target.name
    if not options.stop_after:
        support.check(job.program, job.target.capabilities(), job.target.name)
    return report, context, outputs


def begin(job: Job) -> tuple[Report, PassContext, list[tuple[torch.Tensor, ...]]]:
    """Run the original model on the samples and check that tracing kept its values.

    Raises CaptureError where it did not: the model is random or depends on values that tracing fixed.
    """
    options = job.recipe.options
    chosen = [*data.samples(job.program, seed=options.seed, count=options.cases), *job.samples]
    report = Report(cost(job.program))
    context = PassContext(chosen, options.seed, report.remarks, job.progress)
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


def checks(options: CompileOptions) -> list[Instrument]:
    """The instruments that the options ask for."""
    chosen: list[Instrument] = []
    if options.verify != "off":
        chosen.append(VerifyStructure())
    if options.verify == "numerics":
        chosen.append(VerifyNumerics())
    if options.stop_after:
        chosen.append(StopAfter(options.stop_after))
    return chosen


def edited(text: str, options: CompileOptions, registry: Registry) -> Pipeline:
    """The pipeline text, or that of the options, with their insertions and without what they disable."""
    pipeline = parse(options.pipeline or text, registry.passes)
    for phase, added in options.insert:
        pipeline = pipeline.with_inserted(phase, tuple(parse(added, registry.passes).passes()))
    for name in options.disable:
        pipeline = pipeline.without(name)
    present = {p.name for p in pipeline.passes()}
    if options.stop_after and options.stop_after not in present:
        raise UsageError(f"the pipeline has no pass {options.stop_after!r} to stop after", hint=nearest(options.stop_after, present))
    return pipeline


def _verify(job: Job, directory: Path, manifest: dict[str, Any], report: Report, context: PassContext) -> None:
    job.progress.step("running the artifact and comparing it with the original model")
    report.checks = verification.run_checks(job.target.runners(directory, manifest), directory)
    report.agreement = job.target.agreement(job.program, directory, manifest, context.samples)
    if report.agreement and (lines := report.agreement.broken()):
        raise verification.disagreement(lines, job.target.name)
    tolerance, sqnr = _bounds(job)
    lines = verification.broken(report.checks, tolerance, sqnr)
    if lines:
        raise verification.mismatch(lines, verification.locate(job.program, job.target, context.samples[0], tolerance), job.target.name)


def _bounds(job: Job) -> tuple[float, float]:
    """The tolerance and the SQNR that the user states, else what the target's arithmetic and quantized activations need."""
    stated = job.recipe.options.tolerance
    if stated != CompileOptions.tolerance:
        return stated, 0.0
    own = max(job.target.tolerance or stated, rounding(job.program.dtypes()))
    quantized = any(is_quantize(n) or is_float8(n) for n in job.program.calls())
    if not quantized:
        return own, 0.0
    loose, sqnr = QUANTIZED if own == stated else QUANTIZED_HALF
    return max(own, loose), sqnr


def _manifest(job: Job, lowered: Lowered, directory: Path) -> dict[str, Any]:
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
        **dict(zip(("tolerance", "min_sqnr_db"), _bounds(job), strict=True)),
        "facts": dict(lowered.facts),
        "versions": {name: _version(name) for name in ("edgecc", "torch", "numpy")},
        "files": artifact.digests(directory),
    }


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "source"


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
