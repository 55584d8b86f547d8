"""`edgecc verify`: check an artifact's files and its outputs against the reference stored beside it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from edgecc import artifact
from edgecc.cli import settings, summary
from edgecc.cli.command import Answer, Command, Document
from edgecc.cli.session import Session
from edgecc.cli.terminal import Terminal
from edgecc.errors import UsageError

if TYPE_CHECKING:
    from edgecc.targeting.base import Arrays


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=Path, metavar="DIR", help="a run directory of edgecc compile")
    parser.add_argument(
        "--data", type=Path, metavar="D", help="further cases: an .npz with input/NAME and output/NAME arrays, or a folder of such files"
    )
    settings.add_load(parser)


def run(args: argparse.Namespace, session: Session) -> Answer:
    manifest = artifact.read_manifest(args.directory)
    changed = artifact.check_digests(args.directory, manifest)
    if changed:
        return Answer({"ok": False, "files": changed, "runtimes": [], "tolerance": manifest["tolerance"], "problems": changed}, 1)

    from edgecc import reference, verification

    cases = reference.read(args.directory / "reference") + (_further(args.data) if args.data else [])
    target = settings.registry(args.load).create_target(manifest["target"], manifest["target_options"])
    signature = verification.signature_of(manifest)
    outputs = {s.name for s in signature.outputs}
    for inputs, wanted in cases:
        if set(inputs) != {s.name for s in signature.inputs} or not wanted or not outputs.issuperset(wanted):
            raise UsageError(
                f"a case has inputs {sorted(inputs)} and outputs {sorted(wanted)}; the model takes {[s.name for s in signature.inputs]} and gives {sorted(outputs)}",
                hint="name the arrays input/NAME and output/NAME",
            )
    runners = target.runners(args.directory, manifest)
    session.terminal.progress.expect(len(runners))
    checks = []
    for runner in runners:
        session.terminal.progress.step(f"running {len(cases)} cases on {runner.runtime}")
        checks.append(verification.check_cases(runner, cases))
    problems = verification.broken(checks, manifest["tolerance"], manifest.get("min_sqnr_db", 0.0))
    found = {
        "ok": not problems,
        "files": [],
        "runtimes": [c.as_dict() for c in checks],
        "tolerance": manifest["tolerance"],
        "problems": problems,
    }
    return Answer(found, 1 if problems else 0)


def _further(data: Path) -> list[tuple[Arrays, Arrays]]:
    """Cases of one `.npz` file or of all in a folder, in the order of their names."""
    from edgecc import reference

    files = sorted(data.glob("*.npz")) if data.is_dir() else [data]
    if not files:
        raise UsageError(f"--data {data} holds no .npz file", hint="numpy.savez(file, **{'input/x': x, 'output/y': y})")
    return [reference.read_case(file) for file in files]


def show(document: Document, terminal: Terminal) -> None:
    for check in document["runtimes"]:
        terminal.print(f"ran       on {check['runtime']}: {check['cases']} cases, {summary.distance(check)}")
    for problem in document["problems"]:
        terminal.print(f"problem   {problem}")
    terminal.print(
        f"verified  every file is as it was compiled, and every output within {document['tolerance']:g} of the PyTorch model"
        if document["ok"]
        else "failed    the artifact is not what was compiled"
        if document["files"]
        else "failed    the artifact differs from the PyTorch model"
    )


COMMAND = Command(
    "verify",
    "run an artifact against the reference stored beside it; exit 1 on a mismatch",
    declare,
    run,
    show,
    frozenset({"threads"}),
    quiet=True,
)
