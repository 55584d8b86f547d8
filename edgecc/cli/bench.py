"""`edgecc bench`: how long an artifact takes, how much memory and space, beside other runtimes; and what its ARM binary costs."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecc import artifact, recipe
from edgecc.cli import settings, summary
from edgecc.cli.command import Answer, Command, Document
from edgecc.cli.session import Session
from edgecc.cli.terminal import Terminal
from edgecc.errors import EdgeccError, MissingToolError, UsageError

if TYPE_CHECKING:
    from edgecc.targeting.timing import Contestant

_PEERS = ("onnxruntime", "torch")


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=Path, metavar="DIR", help="a run directory of edgecc compile")
    parser.add_argument(
        "--vs",
        action="append",
        choices=[*_PEERS, "none"],
        help="time this runtime in turns with the artifact (repeatable; default: those that are installed, none for text generators)",
    )
    parser.add_argument("--seconds", type=_seconds, default=2.0, metavar="S", help="time every runtime for about S seconds (2)")
    parser.add_argument(
        "--no-cost", action="store_true", help="do not count what the ARM binary executes, which takes an emulator some time"
    )
    settings.add_load(parser)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is no time, want a number of seconds above 0")
    return seconds


def run(args: argparse.Namespace, session: Session) -> Answer:
    manifest = artifact.read_manifest(args.directory)
    from edgecc import benchmark, reference

    target = settings.registry(args.load).create_target(manifest["target"], manifest["target_options"])
    threads = args.threads or int(manifest["facts"].get("threads", 1))
    missing: list[str] = []
    session.terminal.progress.step("timing the artifact")
    tokens = dict(target.token_speed(args.directory, manifest, threads, args.seconds))
    if tokens and not args.vs:
        return Answer(_document(manifest, threads, {**_UNTIMED, **tokens}, {}, missing))
    cases = reference.read(args.directory / "reference")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        benchmark.write_case(cases[0][0], [i["name"] for i in manifest["inputs"]], folder)
        ours = list(target.contestants(args.directory, manifest, threads, folder))[:1]
        if not ours and not tokens:
            missing.append("nothing on this machine runs the artifact at its own speed, so it is not timed")
        peers = _peers(args, folder, threads, missing, session)
        names = ", ".join(c.runtime for c in [*ours, *peers])
        session.terminal.progress.step(f"timing {names}" if threads == 1 else f"timing {names}, one after another")
        timings = benchmark.contest([*ours, *peers], folder, seconds=args.seconds, together=threads == 1)
        cost: dict[str, Any] = {}
        if not args.no_cost:
            session.terminal.progress.step("counting what one inference executes")
            cost = dict(target.cost(args.directory, manifest, folder, folder))
    missing += cost.pop("missing", [])
    first = timings[0].as_dict() if ours else _UNTIMED
    named = {"runtime": ours[0].runtime, "note": ours[0].note} if ours else {}
    peers_found = {c.runtime: t.as_dict() for c, t in zip(peers, timings[len(ours) :], strict=True)}
    return Answer(_document(manifest, threads, {**first, **named, **cost, **tokens}, peers_found, missing))


#: What an artifact has that was not timed on the inputs of its reference.
_UNTIMED: Mapping[str, Any] = {"latency_ms": None, "cpu_ms": None, "peak_bytes": None, "runs": 0}


def _document(
    manifest: Mapping[str, Any], threads: int, figures: Mapping[str, Any], peers: Mapping[str, Any], missing: list[str]
) -> dict[str, Any]:
    files = (manifest["deployable"], *manifest.get("beside", ()))
    return {
        "runtime": None,
        "note": "",
        "threads": threads,
        "size_bytes": sum(manifest["files"][name]["bytes"] for name in files),
        "instructions": None,
        "cycles": {},
        **figures,
        "peers": peers,
        "missing": missing,
    }


def _peers(args: argparse.Namespace, folder: Path, threads: int, missing: list[str], session: Session) -> list[Contestant]:
    """The runtimes to compare with. One that was asked for and cannot be had raises; another is named in `missing`."""
    from edgecc import benchmark

    wanted = args.vs or _PEERS
    if "none" in wanted:
        if len(wanted) > 1:
            raise UsageError("--vs none goes with no other --vs")
        return []
    found: list[Contestant] = []
    program: Path | None = None
    for name in dict.fromkeys(wanted):
        try:
            if lacking := benchmark.missing(name):
                raise MissingToolError(f"{name} needs {', '.join(lacking)}", hint=f"pip install {' '.join(lacking)}")
            session.terminal.progress.step(f"preparing {name}")
            program = program or _program(args.directory, folder)
            found.append(benchmark.peer(name, program, threads))
        except EdgeccError as error:
            if args.vs:
                raise
            missing.append(str(error))
    return found


def _program(directory: Path, folder: Path) -> Path:
    """A `.pt2` of the model as it was traced: the dumped one, else traced again as the recipe says."""
    dumped = sorted((directory / "ir").glob("*.pt2"))
    if dumped:
        return dumped[0]
    found = recipe.read(directory / "recipe.toml")
    if not found.model:
        raise UsageError(f"{directory} does not say which model it was made of", hint="compile it with dump_ir")
    from edgecc.ir import archive

    loaded = settings.load_model(argparse.Namespace(allow_pickle=False, allow_nonfinite=True), found)
    archive.save(loaded.program, folder / "program.pt2")
    return folder / "program.pt2"


def show(document: Document, terminal: Terminal) -> None:
    rows = [] if document["latency_ms"] is None else [_row(document["runtime"], document, document)]
    rows += [_row(name, figures, document) for name, figures in document["peers"].items()]
    if rows:
        terminal.table(("runtime", "p50 ms", "p90 ms", "CPU p50 ms", "peak memory", "runs", "times ours"), rows)
        terminal.print(f"\nthreads   {document['threads']}")
    if "prompt_tokens_per_second" in document:
        _show_tokens(document, terminal)
    if document["note"]:
        terminal.print(f"note      {document['note']}")
    terminal.print(f"size      {summary.size(document['size_bytes'])}")
    if document["instructions"] is not None:
        kinds = list(document["instructions_by_kind"].items())
        terminal.print(
            f"executes  {_millions(document['instructions'])} M instructions: " + ", ".join(f"{_millions(n)} {k}" for k, n in kinds[:6])
        )
        for cpu, number in document["cycles"].items():
            terminal.print(f"cycles    {_millions(number)} M on {cpu} (estimated, with perfect caches)")
        terminal.print(
            f"misses    {_millions(document['l1_misses'])} M of a 32 KB L1, {_millions(document['l2_misses'])} M of a 1 MB L2 (modelled)"
        )
    for line in document["missing"]:
        terminal.print(f"missing   {line}")


def _show_tokens(document: Document, terminal: Terminal) -> None:
    written = document["decode_tokens_per_second"]
    terminal.print(f"run on    {document['runtime']}, threads {document['threads']}")
    terminal.print(f"prompt    {document['prompt_tokens_per_second']['p50']:.1f} tokens/s, {document['prompt_tokens']} at once")
    if written:
        terminal.print(f"decode    {written['p50']:.1f} tokens/s, one after another")
    terminal.print(f"load      {document['load_ms']:.1f} ms")
    terminal.print(f"memory    {summary.size(document['peak_bytes'])} at the peak")


def _row(name: str, figures: Mapping[str, Any], document: Document) -> tuple[str, ...]:
    latency, processor = figures["latency_ms"], figures["cpu_ms"]
    ratio = f"{processor['p50'] / document['cpu_ms']['p50']:.2f}" if document["cpu_ms"] else "-"
    memory = summary.size(figures["peak_bytes"])
    return name, *(f"{n:.3f}" for n in (latency["p50"], latency["p90"], processor["p50"])), memory, str(figures["runs"]), ratio


def _millions(count: float) -> str:
    return f"{count / 1e6:.2f}"


COMMAND = Command(
    "bench", "time an artifact beside other runtimes, and count what its ARM binary executes", declare, run, show, frozenset({"threads"})
)
