"""`edgecc opt`: run a pipeline text on a saved program."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecc import artifact
from edgecc.cli import debugging, programs, settings, summary
from edgecc.cli.command import Answer, Command, Document
from edgecc.cli.session import Session
from edgecc.cli.terminal import Terminal
from edgecc.errors import UsageError

if TYPE_CHECKING:
    from edgecc.ir.program import Program
    from edgecc.pipeline.instruments import Step
    from edgecc.pipeline.spec import Pipeline
    from edgecc.recipe import Recipe
    from edgecc.report import Report


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("program", type=Path, metavar="PROGRAM", help="a .pt2, or an .ir that names its .pt2 in the first line")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT.pt2", help="write the program there; without it the IR is printed")
    parser.add_argument("--calibration", metavar="FILE.npz|DIR|MODULE:FUNCTION", help="inputs that passes which quantize look at")
    settings.add_load(parser)
    debugging.add_flags(parser)


def run(args: argparse.Namespace, session: Session) -> Answer:
    recipe = settings.recipe(args)
    _check_output(args, recipe)
    from edgecc import assembly, compiler
    from edgecc.analysis.cost import cost
    from edgecc.ir.text import to_text
    from edgecc.report import Report

    registry = settings.registry(recipe.load)
    program = programs.load_program(args.program)
    pipeline = assembly.edited("", recipe.options, registry)
    session.terminal.progress.expect(len(pipeline.passes()))
    report = Report(cost(program))
    with compiler.one_thread():
        report.steps = compiler.timed(report, "passes", lambda: _rewrite(args, recipe, pipeline, program, report, session))
    debugging.say_unchanged(args, report.steps, session)
    for remark in report.remarks:
        session.terminal.log(str(remark), level=1)
    written = args.output if args.output and not args.dry_run else None
    if written:
        _write(program, written)
    found = report.as_dict()
    document: dict[str, Any] = {
        "program": str(args.program),
        "pipeline": str(pipeline),
        "passes": found["passes"],
        "seconds": found["seconds"],
        "written": str(written) if written else None,
        "ir": None if args.output else to_text(program),
        "timing": bool(args.timing),
    }
    return Answer(document)


def _check_output(args: argparse.Namespace, recipe: Recipe) -> None:
    if args.output is None:
        if recipe.options.dump_ir:
            raise UsageError("--dump-ir needs a place", hint="-o OUT.pt2 dumps into OUT-ir/")
        return
    if args.output.suffix != ".pt2":
        raise UsageError(f"-o {args.output}: a program is written as .pt2", hint=f"-o {args.output.with_suffix('.pt2')}")
    artifact.check_file(args.output, overwrite=bool(args.overwrite))
    if recipe.options.dump_ir:
        artifact.check_output(_dump_folder(args.output), overwrite=bool(args.overwrite))


def _rewrite(
    args: argparse.Namespace, recipe: Recipe, pipeline: Pipeline, program: Program, report: Report, session: Session
) -> list[Step]:
    from edgecc import assembly, data
    from edgecc.pipeline import manager
    from edgecc.pipeline.context import PassContext
    from edgecc.pipeline.instruments import Dump
    from edgecc.report import RecordCost

    options = recipe.options
    samples = data.samples(program, seed=options.seed, count=options.cases) if options.verify == "numerics" else ()
    given = settings.data(recipe, program.signature, calibrates=True)
    context = PassContext(samples, options.seed, report.remarks, session.terminal.progress, **given)
    chosen = [*assembly.checks(options), RecordCost(), *debugging.instruments(args, pipeline, session)]
    if args.dry_run or not options.dump_ir:
        return manager.run(pipeline, program, context, chosen)
    with artifact.staged(_dump_folder(args.output), overwrite=bool(args.overwrite)) as folder:
        return manager.run(pipeline, program, context, [*chosen, Dump(folder)])


def _dump_folder(output: Path) -> Path:
    return output.with_name(f"{output.stem}-ir")


def _write(program: Program, file: Path) -> None:
    from edgecc.ir import archive

    with artifact.staged_file(file) as beside:
        archive.save(program, beside)


def show(document: Document, terminal: Terminal) -> None:
    if document["ir"] is not None:
        terminal.print(document["ir"].rstrip("\n"))
        if document["timing"]:
            terminal.log("\n".join(f"{p['name']}: {p['rewrites']} rewrites, {p['seconds']:.3f} s" for p in document["passes"]))
        return
    if terminal.verbosity < 0:
        return
    summary.show_passes(document["passes"], terminal)
    terminal.print(f"written   {document['written']}" if document["written"] else "dry run   nothing was written")
    if document["timing"]:
        summary.show_seconds(document["seconds"], terminal)


COMMAND = Command(
    "opt",
    "run a pipeline text on a saved program, and print or write the result",
    declare,
    run,
    show,
    frozenset({"recipe", "set", "seed", "threads", "overwrite", "dry_run"}),
)
