"""`edgecc compile`: a model to a verified artifact in a run directory."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecc import artifact
from edgecc.cli import debugging, language_model, settings, summary
from edgecc.cli.command import Answer, Command, Document
from edgecc.cli.session import Session
from edgecc.cli.terminal import Terminal
from edgecc.errors import UsageError
from edgecc.recipe import Recipe

if TYPE_CHECKING:
    from edgecc.report import Report
    from edgecc.training.task import Task

#: Loading, running the original model, lowering and running the artifact, besides the passes.
STEPS_BEFORE, STEPS_AFTER = 2, 2


def declare(parser: argparse.ArgumentParser) -> None:
    settings.add_model(parser)
    parser.add_argument("--target", metavar="T", help="what to compile for (edgecc targets)")
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="the run directory to write (MODEL-TARGET)")
    parser.add_argument("--cpu", help="target option: the processor")
    parser.add_argument("--triple", help="target option: the platform as LLVM names it")
    parser.add_argument("--precision", help="target option: what the artifact computes in, for example fp16")
    parser.add_argument(
        "--calibration",
        metavar="FILE.npz|DIR|FILE.txt|MODULE:FUNCTION",
        help="inputs that the model will see, for --quant; checked too without it: an .npz with an array for each input, a folder of such files, text for a language model, or a function that gives samples",
    )
    group = parser.add_argument_group("quantization")
    group.add_argument("--quant", metavar="NAME", help="int8, int8-dynamic, int8-weight, int4-weight, w4a8, nf4, fp16, bf16, ...")
    group.add_argument(
        "--quant-layer",
        action="append",
        metavar="REGEX=SCHEME",
        help="another scheme, or float, for layers whose module path matches (repeatable)",
    )
    group.add_argument(
        "--quant-with",
        action="append",
        metavar="PASS",
        help="a pass that goes with it: smooth-quant, compensate-rounding{...}, ... (repeatable)",
    )
    group.add_argument("--quant-method", metavar="NAME", help="how ranges are found: mse, min-max, moving-average, percentile, entropy")
    group.add_argument(
        "--eval",
        metavar="MODULE:FUNCTION|FILE.txt",
        help="a function of a program that says how good it is, higher is better; text for the perplexity of a language model",
    )
    group.add_argument("--max-drop", type=float, metavar="X", help="fail where more than this of the evaluation is lost")
    speed = group.add_mutually_exclusive_group()
    speed.add_argument(
        "--measure-speedup", dest="speedup", action="store_const", const="measure", help="time the artifact beside the model in float"
    )
    speed.add_argument("--require-speedup", dest="speedup", action="store_const", const="require", help="fail where it is slower than that")
    group = parser.add_argument_group("quantization-aware training")
    group.add_argument(
        "--qat", metavar="MODULE:FUNCTION", help="train what --quant rounds: a function that gives batches of (inputs, target)"
    )
    group.add_argument("--qat-checkpoint", metavar="FILE", help="write the state of training there, and go on from it where it exists")
    group.add_argument("--qat-log", metavar="DIR", help="write the loss of every step there for TensorBoard")
    group = parser.add_argument_group("GGUF")
    group.add_argument(
        "--tensor-type",
        action="append",
        metavar="REGEX=FORMAT",
        help="another block format for tensors whose GGUF name matches (repeatable)",
    )
    group.add_argument(
        "--compensate", choices=("hessian", "none"), help="let weights make up for the rounding of others, with --calibration (hessian)"
    )
    group.add_argument("--imatrix", metavar="FILE.gguf", help="weigh rounding by this importance matrix")
    group.add_argument(
        "--allow-approximate", action="store_true", help="take an architecture of llama.cpp that differs a little, as in GELU by tanh"
    )
    group.add_argument("--context", type=int, metavar="N", help="how many tokens the model was trained for (that of config.json)")
    group.add_argument("--tokenizer", metavar="DIR", help="the folder with the tokenizer's files (that of the model); none leaves it out")
    group.add_argument("--shard-size", type=_bytes, metavar="SIZE", help="split the file, with so much data in each: 2G, 500M")
    settings.add_load(parser)
    debugging.add_flags(parser)


def _bytes(text: str) -> int:
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    number, unit = (text[:-1], units[text[-1].upper()]) if text[-1:].upper() in units else (text, 1)
    if not number.isdecimal() or not int(number):
        raise argparse.ArgumentTypeError(f"{text!r} is no size, want a number of bytes such as 2G or 500M")
    return int(number) * unit


def run(args: argparse.Namespace, session: Session) -> Answer:
    recipe = settings.recipe(args)
    if not recipe.model:
        raise UsageError("no model was given", hint="edgecc compile MODEL --target T, or --recipe FILE")
    if not recipe.target:
        raise UsageError("no target was given", hint="--target NAME; edgecc targets lists them")
    output = args.output or Path(f"{_stem(recipe.model)}-{recipe.target}")
    lowers = not (args.dry_run or recipe.options.stop_after)
    if lowers or (recipe.options.dump_ir and not args.dry_run):
        artifact.check_output(output, overwrite=bool(args.overwrite))
    return _compile(args, recipe, output, lowers, session)


def _compile(args: argparse.Namespace, recipe: Recipe, output: Path, lowers: bool, session: Session) -> Answer:
    from edgecc import assembly, compiler

    if recipe.qat:
        recipe = replace(recipe, options=assembly.with_training(recipe.options))
    elif recipe.qat_checkpoint or recipe.qat_log:
        raise UsageError("--qat-checkpoint and --qat-log are of training, and there is no --qat", hint="--qat module:function")
    registry = settings.registry(recipe.load)
    target = registry.create_target(recipe.target, recipe.target_options)
    if args.dry_run:
        recipe = replace(recipe, options=replace(recipe.options, dump_ir=False))
    target = assembly.with_precision(target, recipe.options)
    if args.dry_run and target.streams:  # sizes alone are asked for: no weight is read
        recipe = replace(recipe, options=replace(recipe.options, verify="off", cases=0))
    pipeline = assembly.pipeline_of(target, recipe.options, registry)
    instruments = debugging.instruments(args, pipeline, session)
    session.terminal.progress.expect(STEPS_BEFORE + len(pipeline.passes()) + (STEPS_AFTER if lowers else 0))
    session.terminal.progress.step(f"loading {recipe.model}")
    began = time.perf_counter()
    loaded = settings.load_model(args, recipe, lazy=target.streams)
    seconds = {"load": round(time.perf_counter() - began, 3)}
    for note in loaded.notes:
        session.terminal.log(f"note: {note}")
    recipe = replace(recipe, target_options=asdict(target))
    job = compiler.Job(
        loaded.program,
        loaded.reference,
        target,
        recipe,
        registry,
        output,
        bool(args.overwrite),
        instruments,
        **settings.data(recipe, loaded.program.signature),
        training=_task(recipe, writes=not args.dry_run),
        directory=settings.directory(recipe),
        workers=args.threads or 1,
        progress=session.terminal.progress,
    )
    report = compiler.compile_job(job).report if lowers else compiler.rewrite_job(job)
    debugging.say_unchanged(args, report.steps, session)
    for remark in report.remarks:
        session.terminal.log(str(remark), level=1)
    document = _document(recipe, str(pipeline), report, seconds)
    document["artifact"] = str(output) if lowers else None
    document["dump"] = str(output / "ir") if recipe.options.dump_ir else None
    document["timing"] = bool(args.timing)
    return Answer(document)


def _task(recipe: Recipe, *, writes: bool) -> Task | None:
    """What to train on. Raises UsageError."""
    from edgecc.frontend import factory
    from edgecc.training.task import Task

    if not recipe.qat:
        return None
    checkpoint, log = (Path(p) if p and writes else None for p in (recipe.qat_checkpoint, recipe.qat_log))
    return Task(factory.function(recipe.qat), recipe.qat, checkpoint, log)


def _stem(model: str) -> str:
    """A name for the run directory: that of the model's file or folder, or of the module and the factory."""
    path = Path(model)
    if path.exists():
        return path.resolve().stem if path.is_file() else path.resolve().name
    place, _, factory = model.rpartition(":")
    return "-".join(part for part in (Path(place).name.removesuffix(".py"), factory) if part)


def _document(recipe: Recipe, pipeline: str, report: Report, seconds: dict[str, float]) -> dict[str, Any]:
    found = report.as_dict()
    kinds = [r.kind for r in report.remarks]
    return {
        "model": recipe.model,
        "target": recipe.target,
        "stopped_after": recipe.options.stop_after or None,
        "pipeline": pipeline,
        **found,
        "seconds": {**seconds, **found["seconds"]},
        "remarks": {kind: kinds.count(kind) for kind in ("applied", "missed", "note")},
    }


def show(document: Document, terminal: Terminal) -> None:
    terminal.print(f"{document['model']} for {document['target']}")
    terminal.print()
    summary.show_passes(document["passes"], terminal)
    terminal.print()
    weights = summary.size(document["size_bytes"]["original_weights"])
    after = f" -> {summary.size(document['size_bytes']['model'])} on the device" if document["artifact"] else ""
    terminal.print(f"size      {weights} of weights{after}")
    summary.show_quantization(document["quantization"], terminal)
    summary.show_training(document["training"], terminal)
    summary.show_evaluation(document["evaluation"], terminal)
    language_model.show(document["facts"].get("gguf"), terminal)
    summary.show_checks((document["verify"] or {}).get("runtimes", ()), terminal)
    language_model.show_assessment((document["verify"] or {}).get("language_model"), terminal)
    summary.show_agreement((document["verify"] or {}).get("quantized"), terminal)
    summary.show_speedup(document["speedup"], terminal)
    if document["verdict"]:
        terminal.print(f"verdict   {document['verdict']}")
    missed = document["remarks"]["missed"]
    where = f": see {document['artifact']}/remarks.jsonl" if document["artifact"] else ": -v prints them"
    terminal.print(f"remarks   applied {document['remarks']['applied']}, missed {missed}{where if missed else ''}")
    if document["dump"]:
        terminal.print(f"ir        {document['dump']}")
    terminal.print(_conclusion(document))
    if document["timing"]:
        terminal.print()
        summary.show_seconds(document["seconds"], terminal)


def _conclusion(document: Document) -> str:
    if document["artifact"]:
        unverified = "" if document["verify"] else " (not verified: --verify off)"
        return f"written   {document['artifact']}{unverified}"
    if document["stopped_after"]:
        return f"stopped   after {document['stopped_after']}: nothing was lowered"
    return f"dry run   {document['target']} supports every operator; nothing was written"


COMMAND = Command(
    "compile",
    "compile a model for a target, verify it on the target's runtime, and write the run directory",
    declare,
    run,
    show,
    frozenset({"recipe", "set", "seed", "threads", "overwrite", "dry_run"}),
    quiet=True,
)
