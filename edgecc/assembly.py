"""What the options make of a target and of its pipeline."""

from __future__ import annotations

from dataclasses import fields, replace

from edgecc.diagnostics import nearest
from edgecc.errors import UsageError
from edgecc.options import CompileOptions
from edgecc.pipeline.instruments import Instrument, StopAfter, VerifyNumerics, VerifyStructure
from edgecc.pipeline.spec import Pipeline, parse
from edgecc.quantization import recipe as quantization
from edgecc.registry import Registry
from edgecc.targeting.base import Target

TRAIN = "train-fake-quant"


def with_precision(target: Target, options: CompileOptions) -> Target:
    """The target as `quant` asks, where that is a precision, or the target quantizes itself. Raises UsageError where it has none."""
    if options.quant and (own := target.with_quant(options.quant)) is not None:
        return own
    precision = quantization.precision(options.quant) if options.quant else ""
    if not precision:
        return target
    if "precision" not in {f.name for f in fields(target)}:
        raise UsageError(f"target {target.name} has no {precision}", hint="--quant int8; edgecc targets show lists what it has")
    return replace(target, precision=precision)  # type: ignore[call-arg]


def with_training(options: CompileOptions) -> CompileOptions:
    """The options with train-fake-quant, where they do not name it. Raises UsageError where there is nothing to train."""
    texts = (options.pipeline, *options.quant_with, *(text for _, text in options.insert))
    if any(TRAIN in text for text in texts):
        return options
    if not options.quant:
        raise UsageError("--qat trains what --quant rounds, and there is no --quant", hint="--quant int8, or w4a8")
    if quantization.precision(options.quant):
        raise UsageError(f"--quant {options.quant} has no integers to train for", hint="--quant int8, or w4a8; or leave --qat out")
    return replace(options, quant_with=(*options.quant_with, TRAIN))


def pipeline_of(target: Target, options: CompileOptions, registry: Registry) -> Pipeline:
    """The target's pipeline as the options change it, with the passes that quantize where they ask for that."""
    if not options.quant or target.with_quant(options.quant) is not None or quantization.precision(options.quant):
        return edited(target.pipeline(), options, registry)
    support = target.capabilities().quantization
    if support is None:
        raise UsageError(
            f"target {target.name!r} has no quantization",
            hint="name a quantization in its Capabilities, or --insert 'compress: insert-fake-quant, calibrate, finalize-quant'",
        )
    added = quantization.passes(options.quant, support, options.quant_layers, options.quant_with, options.quant_method, target.name)
    text = str(parse(target.pipeline(), registry.passes).with_inserted("compress", tuple(parse(added, registry.passes).passes())))
    return edited(text, options, registry)


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
