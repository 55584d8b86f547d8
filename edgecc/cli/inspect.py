"""`edgecc inspect`: what a model, a saved program or an artifact consists of, and which targets support it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecc import artifact
from edgecc.cli import programs, settings, summary
from edgecc.cli.command import Answer, Command, Document
from edgecc.cli.session import Session
from edgecc.cli.terminal import Terminal
from edgecc.errors import MissingToolError, UsageError

if TYPE_CHECKING:
    from torch import fx

    from edgecc.ir.program import Program
    from edgecc.registry import Registry


def declare(parser: argparse.ArgumentParser) -> None:
    settings.add_model(parser, positional="MODEL|DIR|FILE.ir")
    parser.add_argument("--target", metavar="T", help="check this target only")
    settings.add_load(parser)


def run(args: argparse.Namespace, session: Session) -> Answer:
    recipe = settings.recipe(args)
    if not recipe.model:
        raise UsageError("nothing to inspect was given", hint="edgecc inspect MODEL|DIR|FILE.ir")
    path = Path(recipe.model)
    if (path / "manifest.json").is_file():
        return Answer(_artifact(path))
    registry = settings.registry(recipe.load)
    names = [registry.target(recipe.target).name] if recipe.target else sorted(registry.targets)
    session.terminal.progress.expect(1 + len(names))
    session.terminal.progress.step(f"loading {recipe.model}")
    saved = path.suffix == ".ir" or (path / "ir").is_dir()
    program = programs.load_program(path) if saved else settings.load_model(args, recipe).program
    return Answer(
        {"kind": "model", "name": recipe.model, **_figures(program), "targets": [_support(program, n, registry, session) for n in names]}
    )


def _figures(program: Program) -> dict[str, Any]:
    from edgecc.analysis.cost import cost
    from edgecc.verification import describe_interface

    return {**cost(program).as_dict(), **describe_interface(program.signature)}


def _support(program: Program, name: str, registry: Registry, session: Session) -> dict[str, Any]:
    """What a target refuses of the program after its own pipeline, which may rewrite what it cannot lower; where it refuses
    nothing, what it leaves to a substitute, which may refuse it yet.
    """
    from edgecc.pipeline import manager
    from edgecc.pipeline.context import PassContext
    from edgecc.pipeline.spec import parse
    from edgecc.targeting.support import refusals, refusals_as_a_whole

    session.terminal.progress.step(f"checking {name}")
    rewritten = program.snapshot()
    try:
        target = registry.create_target(name, {})
        manager.run(parse(target.pipeline(), registry.passes), rewritten, PassContext())
        capabilities = target.capabilities()
        found = refusals(rewritten, capabilities) or refusals_as_a_whole(rewritten, capabilities)
        others = refusals(rewritten, capabilities.own) if capabilities.own and not found else {}
    except MissingToolError as error:
        return {
            "name": name,
            "supported": None,
            "missing": error.message,
            "install": error.hint,
            "refused": [],
            "substitute": "",
            "substituted": [],
        }
    return {
        "name": name,
        "supported": not found,
        "missing": "",
        "install": "",
        "refused": _listed(found),
        "substitute": capabilities.substitute if others else "",
        "substituted": _listed(others),
    }


def _listed(found: Mapping[tuple[str, str], list[fx.Node]]) -> list[dict[str, Any]]:
    from edgecc.ir.provenance import describe

    return [
        {"operator": operator, "reason": reason, "count": len(nodes), "sources": list(dict.fromkeys(describe(n) or n.name for n in nodes))}
        for (operator, reason), nodes in found.items()
    ]


def _artifact(directory: Path) -> dict[str, Any]:
    manifest = artifact.read_manifest(directory)
    try:
        report = json.loads((directory / "report.json").read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"{directory}/report.json cannot be read: {error}", hint="compile the model again") from error
    if not isinstance(report, dict) or not {"compiled", "size_bytes", "verify"} <= report.keys():
        raise UsageError(f"{directory}/report.json is not a report of edgecc", hint="compile the model again")
    kept = ("target", "target_options", "model", "deployable", "inputs", "outputs", "dims", "files", "versions")
    return {
        "kind": "artifact",
        "name": str(directory),
        **report["compiled"],
        **{key: manifest[key] for key in kept},
        "size_bytes": report["size_bytes"],
        "verify": report["verify"],
    }


def show(document: Document, terminal: Terminal) -> None:
    terminal.print(f"{document['kind']}  {document['name']}")
    terminal.print()
    for side in ("inputs", "outputs"):
        terminal.table((side[:-1], "dtype", "shape"), [(i["name"], i["dtype"], _shape(i["shape"])) for i in document[side]])
        terminal.print()
    for dim in document["dims"]:
        terminal.print(f"dim {dim['name']}: {dim['lower']} to {dim['upper'] if dim['upper'] is not None else 'any'}")
    if document["dims"]:
        terminal.print()
    figures = [
        ("parameters", document["parameters"]),
        ("bytes", document["bytes"]),
        ("macs", document["macs"]),
        ("nodes", document["nodes"]),
    ]
    terminal.table(("figure", "count"), [(name, f"{count:,}") for name, count in figures])
    terminal.print()
    ops: list[tuple[str, int]] = sorted(document["ops"].items(), key=_calls, reverse=True)
    terminal.table(("operator", "calls"), ops)
    terminal.print()
    if document["kind"] == "artifact":
        _show_artifact(document, terminal)
    else:
        _show_support(document["targets"], terminal)


def _calls(operator: tuple[str, int]) -> int:
    return operator[1]


def _show_support(targets: list[Mapping[str, Any]], terminal: Terminal) -> None:
    rows: list[tuple[object, ...]] = []
    for target in targets:
        if target["supported"] is None:
            rows.append((target["name"], "unknown", "", target["missing"], target["install"]))
        elif target["supported"] and not target["substitute"]:
            rows.append((target["name"], "yes", "", "", ""))
        answer = f"by {target['substitute']}" if target["substitute"] else "no"
        for n, refused in enumerate(target["refused"] or target["substituted"]):
            places = "; ".join(refused["sources"][:3]) + (f" and {len(refused['sources']) - 3} more" if len(refused["sources"]) > 3 else "")
            head = ("", "") if n else (target["name"], answer)
            rows.append((*head, f"{refused['operator']} x{refused['count']}", refused["reason"], places))
    terminal.table(("target", "supported", "refused", "reason", "where"), rows)


def _show_artifact(document: Document, terminal: Terminal) -> None:
    options = ", ".join(f"{k}={v}" for k, v in document["target_options"].items())
    terminal.print(f"target    {document['target']}" + (f" ({options})" if options else ""))
    sizes = document["size_bytes"]
    terminal.print(
        f"size      {summary.size(sizes['original_weights'])} of weights -> {summary.size(sizes['model'])} {document['deployable']}"
    )
    summary.show_checks((document["verify"] or {}).get("runtimes", ()), terminal)
    terminal.table(("file", "bytes"), [(name, entry["bytes"]) for name, entry in document["files"].items()])


def _shape(shape: list[int | str]) -> str:
    return f"[{', '.join(map(str, shape))}]"


COMMAND = Command(
    "inspect",
    "show the operators, sizes and inputs of a model or artifact, and which targets support it; writes nothing",
    declare,
    run,
    show,
    frozenset({"recipe", "set", "seed", "threads"}),
)
