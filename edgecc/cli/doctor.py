"""`edgecc doctor`: what each target needs on this machine, what is there, and the line that installs the rest."""

from __future__ import annotations

import argparse
import platform

from edgecc.cli import settings
from edgecc.cli.command import Answer, Command, Document
from edgecc.cli.parser import version
from edgecc.cli.session import Session
from edgecc.cli.targets import requirements, show_requirements
from edgecc.cli.terminal import Terminal
from edgecc.errors import MissingToolError


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--target", metavar="T", help="check this target only, and exit 5 where it lacks something required")
    settings.add_load(parser)


def run(args: argparse.Namespace, session: Session) -> Answer:
    registry = settings.registry(args.load)
    names = [registry.target(args.target).name] if args.target else sorted(registry.targets)
    needs = {name: requirements(name, registry) for name in names}
    versions = {"python": platform.python_version(), **{name: version(name) for name in ("edgecc", "torch", "numpy")}}
    lacking = [need["name"] for found in needs.values() for need in found if need["required"] and not need["found"]]
    targets = [{"name": name, "requirements": found} for name, found in needs.items()]
    return Answer(
        {"versions": versions, "targets": targets, "missing": lacking}, MissingToolError.exit_code if args.target and lacking else 0
    )


def show(document: Document, terminal: Terminal) -> None:
    terminal.print(", ".join(f"{name} {found}" for name, found in document["versions"].items()))
    for target in document["targets"]:
        terminal.print(f"\n{target['name']}")
        show_requirements(target["requirements"], terminal)
    if document["missing"]:
        terminal.print(f"\nmissing: {', '.join(dict.fromkeys(document['missing']))}")


COMMAND = Command("doctor", "check what the targets need on this machine, and how to install it", declare, run, show)
