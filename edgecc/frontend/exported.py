"""Load a `.pt2`: its program, its inputs, and its own module as the reference."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from edgecc.diagnostics import nearest
from edgecc.errors import UsageError
from edgecc.frontend.input_spec import InputSpec, example_sizes, example_tensor
from edgecc.ir import archive
from edgecc.ir.capture import eager, from_exported
from edgecc.ir.program import Program
from edgecc.ir.signature import Dim, Signature, TensorSpec

_HINT = "the dimensions of an exported program were fixed when it was exported; give sizes, or export it again"


def load_exported(path: Path, specs: Sequence[InputSpec], *, seed: int = 0) -> tuple[Program, Callable[..., tuple[torch.Tensor, ...]]]:
    """The program of an archive, and its own module as a function of flat inputs to flat outputs.

    `specs` replace the example inputs that it carries. Raises RefusedError for an archive whose loading would run
    code, UsageError for a broken one and for specs that do not fit.
    """
    exported, names = archive.read(path)
    original = _module(exported)
    program = from_exported(exported, names)
    if len(program.examples) != len(program.signature.inputs):
        program.examples = tuple(_example(program.signature, s, seed + i) for i, s in enumerate(program.signature.inputs))
    program.examples = _with_specs(program, specs, seed)
    args, kwargs = _call(exported, program.examples)
    return program, eager(original, args, kwargs)


def _module(exported: torch.export.ExportedProgram) -> fx.GraphModule:
    """A plain module of the exported graph, before anything rewrites it; without the guards, which are Python text."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = exported.module(check_guards=False)
    assert isinstance(module, fx.GraphModule)
    return fx.GraphModule(module, module.graph, "Exported")


def _call(exported: torch.export.ExportedProgram, examples: Sequence[torch.Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Example arguments nested as the model takes them, with the constants that the archive carries."""
    given = iter(examples)
    if exported.example_inputs is not None:
        return pytree.tree_map(lambda v: next(given) if isinstance(v, torch.Tensor) else v, tuple(exported.example_inputs))  # type: ignore[no-any-return]
    tree = exported.call_spec.in_spec
    assert tree is not None
    if tree.num_leaves != len(examples):
        raise UsageError("the archive carries no example inputs, and takes inputs that are not tensors", hint="save it with example inputs")
    return pytree.tree_unflatten(list(given), tree)  # type: ignore[no-any-return]


def _with_specs(program: Program, specs: Sequence[InputSpec], seed: int) -> tuple[torch.Tensor, ...]:
    named = {s.name: t for s, t in zip(program.signature.inputs, program.examples, strict=True)}
    wanted = {s.name: s for s in program.signature.inputs}
    sizes = example_sizes(specs)
    for index, spec in enumerate(specs):
        if spec.name not in named:
            raise UsageError(
                f"the program takes no input {spec.name!r}, but {'; '.join(map(str, wanted.values()))}", hint=nearest(spec.name, named)
            )
        shape = wanted[spec.name].shape
        for axis, dim in spec.dims.items():
            if axis >= len(shape) or shape[axis] != dim.name:
                raise UsageError(f"{spec} makes axis {axis} dynamic, but the program takes {wanted[spec.name]}", hint=_HINT)
        named[spec.name] = example_tensor(spec, sizes, seed + index)
    return program.signature.bind(named)


def _example(signature: Signature, spec: TensorSpec, seed: int) -> torch.Tensor:
    """Values for an input of an archive that carries none."""
    dims = {d.name: d for d in signature.dims}
    known = InputSpec(spec.name, spec.dtype, tuple(dims.get(s, Dim(s)) if isinstance(s, str) else s for s in spec.shape))
    every = [InputSpec("", shape=tuple(signature.dims)), known]
    return example_tensor(known, example_sizes(every), seed)
