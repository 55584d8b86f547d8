"""The debug flags that `compile` and `opt` share, and the instruments behind them."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import TYPE_CHECKING, get_args

from edgecc.cli.session import Session
from edgecc.diagnostics import nearest
from edgecc.errors import UsageError
from edgecc.options import VerifyLevel

if TYPE_CHECKING:
    from edgecc.pipeline.instruments import Instrument, Step
    from edgecc.pipeline.spec import Pipeline


def add_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("pipeline and debugging")
    group.add_argument(
        "--passes", metavar="TEXT", help="run this pipeline in place of the default one: 'canonicalize, fuse-gelu' (edgecc passes)"
    )
    group.add_argument(
        "--insert", action="append", metavar="PHASE:TEXT", help="append passes to a phase: 'fuse:my-pass{rank=8}' (repeatable)"
    )
    group.add_argument("--disable-pass", action="append", metavar="PASS", help="leave a pass out (repeatable)")
    group.add_argument("--stop-after", metavar="PASS", help="end the pipeline after a pass; nothing is lowered")
    group.add_argument("--verify", choices=get_args(VerifyLevel), help="what is checked after every pass (numerics)")
    group.add_argument("--cases", type=int, metavar="N", help="how many seeded inputs are checked (3); 0, with --verify off, runs nothing")
    group.add_argument("--dump-ir", action="store_true", help="write ir/NN-pass.ir and .pt2 after every pass that changed something")
    group.add_argument("--print-ir-after", action="append", metavar="PASS", help="print the IR after a pass (repeatable)")
    group.add_argument(
        "--print-ir-after-change", action="store_true", help="print the traced IR, and that after every pass that changed it"
    )
    group.add_argument("--timing", action="store_true", help="print where the time went")


def instruments(args: argparse.Namespace, pipeline: Pipeline, session: Session) -> list[Instrument]:
    """What the flags ask for, and one that keeps the last good program for a crash report.

    Raises UsageError for `--print-ir-after` of a pass that the pipeline lacks.
    """
    from edgecc.cli.keep_last import KeepLast
    from edgecc.pipeline.instruments import Dump

    chosen: list[Instrument] = [KeepLast(session)]
    if args.print_ir_after_change:
        chosen.append(Dump(text_to=session.terminal.aside))
    if args.print_ir_after:
        present = {p.name for p in pipeline.passes()}
        for name in args.print_ir_after:
            if name not in present:
                raise UsageError(f"the pipeline has no pass {name!r} to print the IR after", hint=nearest(name, present))
        chosen.append(Dump(text_to=session.terminal.aside, only=args.print_ir_after))
    return chosen


def say_unchanged(args: argparse.Namespace, steps: Iterable[Step], session: Session) -> None:
    """Say why `--print-ir-after` printed nothing."""
    for step in steps:
        if step.pass_.name in (args.print_ir_after or ()) and not step.rewrites:
            session.terminal.log(f"{step.pass_.name} changed nothing, so there is no new IR to print")
