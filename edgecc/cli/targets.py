"""`edgecc targets`: which targets exist, their options and pipelines, and whether this machine has what they need."""

from __future__ import annotations

import argparse
import inspect
from typing import TYPE_CHECKING, Any

from edgecc.cli import settings
from edgecc.cli.command import Answer, Command, Document
from edgecc.cli.passes import options
from edgecc.cli.session import Session
from edgecc.cli.terminal import Terminal
from edgecc.errors import MissingToolError, UsageError

if TYPE_CHECKING:
    from edgecc.registry import Registry
    from edgecc.targeting.base import Target


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", nargs="?", metavar="show", help="show one target in full: edgecc targets show NAME")
    parser.add_argument("name", nargs="?", metavar="NAME")
    settings.add_load(parser)


def run(args: argparse.Namespace, session: Session) -> Answer:
    if args.action not in (None, "show") or (args.action and not args.name):
        raise UsageError(f"edgecc targets {args.action}: want nothing or 'show NAME'", hint="edgecc targets show NAME")
    registry = settings.registry(args.load)
    names = [args.name] if args.name else sorted(registry.targets)
    return Answer({"targets": [_describe(name, registry, full=bool(args.name)) for name in names], "full": bool(args.name)})


def _describe(name: str, registry: Registry, *, full: bool) -> dict[str, Any]:
    target = registry.create_target(name, {})
    needs = requirements(name, registry)
    return {
        "name": name,
        "doc": inspect.getdoc(type(target)) or "",
        "options": options(type(target)),
        "pipeline": target.pipeline(),
        "quantization": _quantization(target) if full else "",
        "ready": all(need["found"] for need in needs if need["required"]),
        "requirements": needs,
    }


def _quantization(target: Target) -> str:
    """What the target runs of quantized programs, `""` where that is nothing or its packages are missing."""
    try:
        found = target.capabilities().quantization
    except MissingToolError:
        return ""
    return str(found) if found else ""


def requirements(name: str, registry: Registry) -> list[dict[str, Any]]:
    """What a target with its default options needs or profits from, found or not."""
    keys = ("name", "found", "purpose", "install", "required")
    return [{key: getattr(need, key) for key in keys} for need in registry.create_target(name, {}).requirements()]


def show(document: Document, terminal: Terminal) -> None:
    if not document["full"]:
        rows = [
            (t["name"], "yes" if t["ready"] else "no: edgecc doctor", ", ".join(t["options"]), t["doc"].partition("\n")[0])
            for t in document["targets"]
        ]
        terminal.table(("target", "ready", "options", "what it is"), rows)
        return
    for target in document["targets"]:
        terminal.print(f"{target['name']}\n\n{target['doc']}\n")
        if target["options"]:
            terminal.table(("option", "default"), [(k, v or "must be given") for k, v in target["options"].items()])
            terminal.print()
        terminal.print("pipeline")
        for phase in target["pipeline"].split("|"):
            terminal.print(f"  {phase.strip()}")
        if target["quantization"]:
            terminal.print(f"\nquantization\n  {target['quantization']}")
        terminal.print()
        show_requirements(target["requirements"], terminal)


def show_requirements(needs: list[dict[str, Any]], terminal: Terminal) -> None:
    rows = [
        (
            n["name"],
            n["found"] or ("MISSING" if n["required"] else "missing"),
            "yes" if n["required"] else "no",
            n["purpose"],
            "" if n["found"] else n["install"],
        )
        for n in needs
    ]
    terminal.table(("requirement", "found", "required", "for", "to install"), rows)


COMMAND = Command("targets", "list the targets, or show one with its options, pipeline and requirements", declare, run, show)
