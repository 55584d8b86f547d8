"""`edgecc run`: execute an artifact on its runtime with inputs from files, or continue a prompt with it."""

from __future__ import annotations

import argparse
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecc import artifact
from edgecc.cli import generation, settings
from edgecc.cli.command import Answer, Command, Document
from edgecc.cli.session import Session
from edgecc.cli.terminal import Terminal
from edgecc.errors import ContractError, UsageError

if TYPE_CHECKING:
    import numpy as np

    from edgecc.targeting.base import Arrays, Target


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=Path, metavar="DIR", help="a run directory of edgecc compile")
    parser.add_argument("--input", action="append", metavar="NAME=FILE.npy", help="an input (repeatable, one for each of the model's)")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="OUT.npz", help="write the outputs by name; without it they are only summarized"
    )
    generation.declare(parser)
    settings.add_load(parser)


def run(args: argparse.Namespace, session: Session) -> Answer:
    manifest = artifact.read_manifest(args.directory)
    generates = generation.wanted(args)
    if args.output and args.output.suffix != ".npz":
        raise UsageError(f"-o {args.output}: outputs are written as .npz", hint=f"-o {args.output.with_suffix('.npz')}")
    if args.output:
        artifact.check_file(args.output, overwrite=bool(args.overwrite))
    changed = [line for line in artifact.check_digests(args.directory, manifest) if not line.startswith("reference/")]
    if changed:
        raise ContractError(f"{args.directory} is not what was compiled: {'; '.join(changed)}", hint="compile the model again")
    if generates:
        return generation.run(args, session, _target(args, manifest), manifest)
    arrays = _read_inputs(args.input or [], manifest)
    if args.dry_run:
        return Answer({"runtime": None, "outputs": [], "written": None})
    target = _target(args, manifest)
    runner = target.runners(args.directory, manifest)[0]
    session.terminal.progress.step(f"running on {runner.runtime}")
    outputs = runner.run(arrays)
    if args.output:
        _write(args.output, outputs)
    described = [{"name": name, **_describe(array)} for name, array in outputs.items()]
    return Answer({"runtime": runner.runtime, "outputs": described, "written": str(args.output) if args.output else None})


def _target(args: argparse.Namespace, manifest: Mapping[str, Any]) -> Target:
    return settings.registry(args.load).create_target(manifest["target"], manifest["target_options"])


def _read_inputs(given: list[str], manifest: Mapping[str, Any]) -> Arrays:
    """The inputs by name, checked against the manifest. Raises UsageError that lists everything wrong."""
    from edgecc.reference import to_tensor
    from edgecc.verification import signature_of

    arrays: Arrays = {}
    for item in given:
        name, equals, file = item.partition("=")
        if not equals:
            raise UsageError(f"--input {item!r}: want NAME=FILE.npy", hint="--input x=image.npy")
        if name in arrays:
            raise UsageError(f"--input {name} was given twice")
        arrays[name] = _load(name, Path(file))
    signature = signature_of(manifest)
    specs = {s.name: s for s in signature.inputs}
    signature.bind({name: to_tensor(array, specs.get(name)) for name, array in arrays.items()})
    return arrays


def _load(name: str, file: Path) -> np.ndarray[Any, Any]:
    import numpy as np

    try:
        with file.open("rb") as stream:
            array = np.load(stream, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f"--input {name}: {file} cannot be read: {error}", hint="numpy.save(file, array) writes one") from error
    if not isinstance(array, np.ndarray):
        raise UsageError(f"--input {name}: {file} holds several arrays, want one", hint="numpy.save(file, array) writes one")
    return array


def _write(file: Path, outputs: Arrays) -> None:
    import numpy as np

    with artifact.staged_file(file) as beside:
        np.savez(beside, **outputs)  # type: ignore[arg-type]


def _describe(array: np.ndarray[Any, Any]) -> dict[str, Any]:
    import numpy as np

    values = array.astype(np.float64).ravel() if array.dtype.kind in "fiub" else np.zeros(0)

    def figure(value: Any) -> float | None:
        return float(value) if math.isfinite(value) else None

    found = (values.min(), values.max(), values.mean()) if values.size else (math.nan,) * 3
    return {"dtype": str(array.dtype), "shape": list(array.shape), **dict(zip(("min", "max", "mean"), map(figure, found), strict=True))}


def show(document: Document, terminal: Terminal) -> None:
    if "tokens" in document:
        generation.show(document, terminal)
        return
    if not document["runtime"]:
        terminal.print("dry run   the inputs fit the model; nothing was run")
        return
    terminal.print(f"run on    {document['runtime']}")
    rows = [(o["name"], o["dtype"], o["shape"], *(_figure(o[k]) for k in ("min", "max", "mean"))) for o in document["outputs"]]
    terminal.table(("output", "dtype", "shape", "min", "max", "mean"), rows)
    if document["written"]:
        terminal.print(f"written   {document['written']}")


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"


COMMAND = Command(
    "run",
    "run an artifact on its runtime",
    declare,
    run,
    show,
    frozenset({"threads", "overwrite", "dry_run", "seed"}),
    quiet=True,
)
