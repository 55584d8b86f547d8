"""Convert a TorchScript archive by torch's own converter, where that works.

The converter has no public name, but torch.export points to it by this one when it meets a TorchScript module
(tried with torch 2.13). What it makes is traced again, so that dynamic dimensions and names are as for any model.
"""

from __future__ import annotations

import logging
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from edgecc.diagnostics import nearest
from edgecc.errors import CaptureError, RefusedError, UsageError
from edgecc.frontend.finite import check_finite
from edgecc.frontend.input_spec import InputSpec, example_sizes, example_tensor
from edgecc.frontend.reason import reason
from edgecc.ir.capture import trace
from edgecc.ir.program import Program

_OPENS_FILES = re.compile(r"\b(torch|ops\.aten)\.(save|from_file|load)\(")
_HINT = "where the Python source is at hand, give file.py:factory, or save torch.export.export(model, args) with torch.export.save"


def capture_torchscript(
    path: Path, specs: Sequence[InputSpec], *, seed: int = 0, allow_nonfinite: bool = False
) -> tuple[Program, Callable[..., tuple[torch.Tensor, ...]]]:
    """The program of a TorchScript archive, and the TorchScript module itself on flat inputs.

    Raises RefusedError for code that opens files, UsageError for missing inputs, CaptureError where torch cannot convert.
    """
    _refuse_file_access(path)
    with _quiet():
        try:
            module = torch.jit.load(path, map_location="cpu").eval()  # type: ignore[no-untyped-call]
        except (RuntimeError, ValueError) as error:
            raise UsageError(f"{path} is a damaged TorchScript archive: {reason(error)}") from error
    if not allow_nonfinite:
        check_finite(module)
    names, examples = _examples(module, specs, seed)
    converted = _convert(path, module, examples)
    given = {s.name: s.dims for s in specs}
    placeholders = [str(n.target) for n in converted.graph.nodes if n.op == "placeholder"]
    dims = {placeholder: given[name] for placeholder, name in zip(placeholders, names, strict=True)}
    program = trace(converted, examples, dims={n: d for n, d in dims.items() if d})
    inputs = tuple(replace(s, name=n) for s, n in zip(program.signature.inputs, names, strict=True))
    program.signature = replace(program.signature, inputs=inputs)

    def reference(*flat: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with torch.no_grad():
            result = module(*(t.clone() for t in flat))
        return tuple(v for v in pytree.tree_leaves(result) if isinstance(v, torch.Tensor))

    return program, reference


def _refuse_file_access(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith(".py") and (match := _OPENS_FILES.search(archive.read(name).decode("utf-8", "replace"))):
                raise RefusedError(f"{path} opens files when it runs: {match.group()}...) in {name}", hint=_HINT)


def _examples(module: Any, specs: Sequence[InputSpec], seed: int) -> tuple[list[str], tuple[torch.Tensor, ...]]:
    """Tensors for the leading parameters of the TorchScript method, in its order."""
    arguments = list(module.forward.schema.arguments)[1:]
    given = {s.name: s for s in specs}
    names = [a.name for a in arguments]
    unknown = next((n for n in given if n not in names), None)
    if unknown:
        raise UsageError(f"the model takes no input {unknown!r}: {module.forward.schema}", hint=nearest(unknown, names))
    missing = [a.name for a in arguments if a.name not in given and not a.has_default_value()]
    if missing:
        hint = " ".join(f"--input '{n}:f32[1,3,224,224]'" for n in missing) + ", with the shapes that it takes"
        raise UsageError(f"a TorchScript archive carries no example inputs; give {', '.join(missing)}", hint=hint)
    leading = [n for n in names if n in given]
    if leading != names[: len(leading)]:
        raise UsageError(f"inputs must be given from the first on: {', '.join(names)}")
    sizes = example_sizes(specs)
    return leading, tuple(example_tensor(given[n], sizes, seed + i) for i, n in enumerate(leading))


def _convert(path: Path, module: Any, examples: tuple[torch.Tensor, ...]) -> fx.GraphModule:
    from torch._export.converter import TS2EPConverter

    with _quiet():
        try:
            exported = TS2EPConverter(module, examples, {}).convert()
            owner = exported.module(check_guards=False)
        except Exception as error:  # the converter raises whatever the operator at hand did
            raise CaptureError(f"torch cannot convert the TorchScript archive {path}: {reason(error)}", hint=_HINT) from error
    assert isinstance(owner, fx.GraphModule)
    return fx.GraphModule(owner, owner.graph, "TorchScript")


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch.jit's deprecation warnings and the converter's log, and no more."""
    loggers = [logging.getLogger(name) for name in ("torch.export", "torch._export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
