"""The public Python API: compile, trace and load, over PyTorch modules, programs and files."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from edgecc import artifact, assembly, compiler
from edgecc import calibration as given
from edgecc.compiler import CompileResult, Job
from edgecc.errors import UsageError
from edgecc.ir import archive, capture
from edgecc.ir.capture import Dims
from edgecc.ir.program import Program
from edgecc.options import CompileOptions
from edgecc.recipe import Recipe
from edgecc.registry import Registry
from edgecc.targeting.base import Runner, Target
from edgecc.training.task import Task

Inputs = torch.Tensor | Sequence[Any] | Mapping[str, Any]


def trace(model: torch.nn.Module, example_inputs: Inputs, *, dims: Dims | None = None) -> Program:
    """Trace a module. `example_inputs`: one tensor, the positional arguments, or the keyword arguments by name.

    `dims` names dynamic axes by flat input name, as in `{"x": {0: Dim("batch", 1, 8)}}`. Raises CaptureError with
    the source line of what could not be traced.
    """
    args, kwargs = _arguments(example_inputs)
    return capture.trace(model, args, kwargs, dims=dims)


def load(path: str | Path) -> Program:
    """Load a `.pt2` archive without running a pickle. Raises RefusedError for one whose loading would run code."""
    return archive.load(Path(path))


def compile(
    model: torch.nn.Module | Program,
    example_inputs: Inputs = (),
    *,
    target: str | Target,
    options: CompileOptions | None = None,
    output: str | Path | None = None,
    dims: Dims | None = None,
    overwrite: bool = False,
    load: Sequence[str | Path] = (),
    calibration: Iterable[Any] | None = None,
    evaluate: Callable[[Program], float] | None = None,
    qat: Any = None,
    qat_checkpoint: str | Path | None = None,
    qat_log: str | Path | None = None,
) -> CompileResult:
    """Compile a module or program for a target, and verify the artifact on its runtime.

    `calibration`: samples for `options.quant`, each a dict by input name, a tuple or one array. `evaluate`: how good a program
    is, higher is better; it is called with a Program, which takes the flat inputs and gives a tuple.
    `qat`: batches of (inputs, target) to train on once `options.quant` has rounded, a dict with them as `data`, or a function that
    returns one of these; `qat_checkpoint` is the file that a stopped training goes on from, `qat_log` a folder for TensorBoard.

    `output`: the run directory; a new temporary one if None. `load`: Python files with passes or targets.
    Raises an EdgeccError; see `edgecc.errors` for the kinds.
    """
    registry = Registry.create(map(Path, load))
    chosen = options or CompileOptions()
    chosen = chosen if qat is None else assembly.with_training(chosen)
    backend = assembly.with_precision(registry.target(target)() if isinstance(target, str) else target, chosen)
    args, kwargs = _arguments(example_inputs)
    if isinstance(model, Program):
        program, original = model.snapshot(), model.snapshot().__call__
    else:
        program, original = capture.trace(model, args, kwargs, dims=dims), capture.eager(model, args, kwargs)
    recipe = Recipe(target=backend.name, load=tuple(map(str, load)), target_options=asdict(backend), options=chosen)
    place = Path(output) if output is not None else Path(tempfile.mkdtemp(prefix="edgecc-")) / backend.name
    return compiler.compile_job(
        Job(
            *(program, original, backend, recipe, registry, place, overwrite),
            calibration=None if calibration is None else given.of(calibration, program.signature),
            evaluate=None if evaluate is None else given.evaluation(evaluate, "function"),
            training=None if qat is None else Task(qat, "qat", _path(qat_checkpoint), _path(qat_log)),
        )
    )


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)


def runners(directory: str | Path, *, load: Sequence[str | Path] = ()) -> Sequence[Runner]:
    """The runtimes of this machine that can execute an artifact, the most faithful first.

    Raises UsageError for what is no run directory, MissingToolError where no runtime is installed.
    """
    manifest = artifact.read_manifest(Path(directory))
    target = Registry.create(map(Path, load)).create_target(manifest["target"], manifest["target_options"])
    return target.runners(Path(directory), manifest)


def _arguments(example_inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example_inputs, torch.Tensor):
        return (example_inputs,), {}
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if isinstance(example_inputs, Sequence):
        return tuple(example_inputs), {}
    raise UsageError(f"example_inputs is a {type(example_inputs).__name__}, want a tensor, a tuple or a dict")
