"""`edgecc diff`: which nodes and weights differ between two programs; exit 1 where any does."""

from __future__ import annotations

import argparse
from pathlib import Path

from edgecc.cli import programs
from edgecc.cli.command import Answer, Command, Document
from edgecc.cli.session import Session
from edgecc.cli.terminal import Terminal


def declare(parser: argparse.ArgumentParser) -> None:
    for name in ("a", "b"):
        parser.add_argument(
            name, type=Path, metavar=name.upper(), help="a .pt2, an .ir, or a run directory with ir/, of which the last program counts"
        )


def run(args: argparse.Namespace, session: Session) -> Answer:
    first, second = programs.archive_of(args.a), programs.archive_of(args.b)
    from edgecc.ir.diff import diff

    found = diff(programs.load_program(first), programs.load_program(second))
    document = {
        "a": str(first),
        "b": str(second),
        "equal": not found,
        "removed": list(found.removed),
        "added": list(found.added),
        "changed": [{"name": name, "before": before, "after": after} for name, before, after in found.changed],
        "reweighted": list(found.reweighted),
    }
    return Answer(document, 1 if found else 0)


def show(document: Document, terminal: Terminal) -> None:
    if document["equal"]:
        terminal.log(f"{document['a']} and {document['b']} are equal")
        return
    terminal.print(f"--- {document['a']}\n+++ {document['b']}")
    for line in document["removed"]:
        terminal.print(f"- {line}")
    for line in document["added"]:
        terminal.print(f"+ {line}")
    for change in document["changed"]:
        terminal.print(f"- {change['before']}\n+ {change['after']}")
    for name in document["reweighted"]:
        terminal.print(f"~ @{name}: same shape, other values")


COMMAND = Command("diff", "compare two programs node by node; exit 1 where they differ", declare, run, show)
