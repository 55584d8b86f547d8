"""`edgecc passes`: which passes exist, what each promises and which options it has."""

from __future__ import annotations

import argparse
import inspect
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any

from edgecc.cli import settings
from edgecc.cli.command import Answer, Command, Document
from edgecc.cli.session import Session
from edgecc.cli.terminal import Terminal
from edgecc.diagnostics import nearest
from edgecc.errors import UsageError

if TYPE_CHECKING:
    from edgecc.pipeline.base import Pass


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="show one pass in full")
    settings.add_load(parser)


def run(args: argparse.Namespace, session: Session) -> Answer:
    known = settings.registry(args.load).passes
    if args.name and args.name not in known:
        raise UsageError(f"unknown pass {args.name!r}", hint=nearest(args.name, known))
    chosen = [args.name] if args.name else sorted(known)
    return Answer({"passes": [_describe(known[name]) for name in chosen], "full": bool(args.name)})


def _describe(kind: type[Pass]) -> dict[str, Any]:
    return {
        "name": kind.name,
        "numerics": _numerics(kind),
        "doc": inspect.getdoc(kind) or "",
        "options": options(kind),
        "file": inspect.getsourcefile(kind) or "",
    }


def options(kind: type) -> dict[str, Any]:
    """The options of a pass or target with their defaults as text, None where one must be given."""
    found: dict[str, Any] = {}
    for field in fields(kind):
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        found[field.name] = None if default is MISSING else repr(default)
    return found


def _numerics(kind: type[Pass]) -> str:
    from edgecc.pipeline.base import LOSSY, Exact, Lossy, Reordered

    promise = kind.numerics
    if isinstance(promise, Exact):
        return "exact"
    if isinstance(promise, Reordered):
        return f"reordered, {promise.tolerance:g}"
    if promise == LOSSY:
        return "lossy"
    return f"lossy, {promise.min_sqnr_db:g} dB" if isinstance(promise, Lossy) else str(promise)


def show(document: Document, terminal: Terminal) -> None:
    if not document["full"]:
        rows = [(p["name"], p["numerics"], _options(p["options"]), p["doc"].partition("\n")[0]) for p in document["passes"]]
        terminal.table(("pass", "numerics", "options", "what it does"), rows)
        return
    for found in document["passes"]:
        terminal.print(f"{found['name']} ({found['numerics']})\n\n{found['doc']}\n")
        if found["options"]:
            terminal.table(("option", "default"), [(k, v or "must be given") for k, v in found["options"].items()])
        terminal.print(f"defined in {found['file']}")


def _options(found: dict[str, Any]) -> str:
    return ", ".join(name if default is None else f"{name}={default}" for name, default in found.items())


COMMAND = Command("passes", "list the passes, what each promises, and its options", declare, run, show)
