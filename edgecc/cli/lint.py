"""`edgecc lint`: whether TensorRT would read an ONNX file, by its documented rules; TensorRT is not needed and not run."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from edgecc.cli import settings
from edgecc.cli.command import Answer, Command, Document
from edgecc.cli.session import Session
from edgecc.cli.terminal import Terminal

SHOWN = 8  # findings of one rule; --json and -v give all


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE.onnx", help="any ONNX file, made by edgecc or not")
    parser.add_argument("--trt", default="10.15", metavar="VERSION", help="the TensorRT release: 10.1, 10.15 (default) or 11.1")
    settings.add_load(parser)


def run(args: argparse.Namespace, session: Session) -> Answer:
    target = settings.registry(args.load).create_target("tensorrt", {})
    report = target.lint(args.file, args.trt)
    return Answer(report.as_dict(), 1 if report.errors else 0)


def show(document: Document, terminal: Terminal) -> None:
    for _, found in groupby(document["findings"], key=_rule):
        _show_rule(list(found), terminal)
    errors, warnings = document["errors"], document["warnings"]
    terminal.print(f"{document['file']}: {_count(errors, 'error')}, {_count(warnings, 'warning')}")
    terminal.print(document["verdict"].partition(": confirm with")[0])
    terminal.print("confirm with")
    for command in document["commands"]:
        terminal.print(f"  {command}")


def _show_rule(found: Sequence[Mapping[str, Any]], terminal: Terminal) -> None:
    """One rule: what it says, then a line a finding, then what to do and who says so."""
    severity = "E" if any(f["severity"] == "E" for f in found) else "W"
    terminal.print(f"{severity} {found[0]['rule']}  {found[0]['title']}")
    shown = found if terminal.verbosity > 0 else found[:SHOWN]
    rows = [(f["severity"], f["node"] or "the file", f["operator"], f["found"]) for f in shown]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    for row in rows:
        cells = "  ".join(cell.ljust(width) for cell, width in zip(row[:3], widths, strict=True))
        terminal.print(f"    {cells}  {row[3]}")
    if len(found) > len(shown):
        terminal.print(f"    and {len(found) - len(shown)} more: -v lists them")
    for fix in dict.fromkeys(f["fix"] for f in found):
        terminal.print(f"    do: {fix}")
    terminal.print(f"    source: {found[0]['source']}\n")


def _rule(finding: Mapping[str, Any]) -> str:
    return str(finding["rule"])


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


COMMAND = Command("lint", "check whether TensorRT would read an ONNX file, without a GPU; exit 1 where it would not", declare, run, show)
