"""Call the user's `file.py:factory` or `package.module:factory` that makes a model.

Naming the file is the agreement to run it. What goes wrong inside keeps the user's own line.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from edgecc.diagnostics import nearest
from edgecc.errors import UsageError

_HINT = "write file.py:factory or package.module:factory; the factory returns a module, or (module, example_inputs)"


@dataclass(frozen=True)
class Made:
    """What a factory made: a module, and its example inputs, none where it gave none."""

    module: torch.nn.Module
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)


def is_factory(source: str) -> bool:
    """Whether a MODEL argument names a factory: `....py:name` or `package.module:name`."""
    place, colon, name = source.rpartition(":")
    dotted = all(part.isidentifier() for part in place.split("."))
    return bool(colon) and name.isidentifier() and (place.endswith(".py") or dotted)


def make(source: str) -> Made:
    """Import the module that `source` names and call its factory.

    Raises UsageError where there is no such file, module or name, and, with the user's line, where their code fails.
    """
    with _found(source) as factory:
        if isinstance(factory, torch.nn.Module):
            return Made(factory)
        if not callable(factory):
            raise UsageError(f"{source} is {type(factory).__name__}, not a function that makes a model", hint=_HINT)
        try:
            made = factory()
        except (Exception, SystemExit) as error:  # the user's code may raise anything; it is reported with its line
            raise UsageError(f"{source} failed: {_described(error)}") from error
    return _unpack(made, source)


@contextmanager
def _found(source: str) -> Iterator[Any]:
    """What `source` names, with its neighbours importable meanwhile."""
    place, colon, name = source.rpartition(":")
    if not colon or not place or not name:
        raise UsageError(f"{source!r} does not name a factory", hint=_HINT)
    with _importing_from(Path(place).resolve().parent if place.endswith(".py") else Path.cwd()):
        module = _import_file(Path(place)) if place.endswith(".py") else _import_package(place)
        if not hasattr(module, name):
            public = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
            raise UsageError(f"{place} has no {name!r}", hint=nearest(name, public))
        yield getattr(module, name)


def function(source: str) -> Callable[..., Any]:
    """The function that `file.py:name` or `package.module:name` names, which is not called. Raises UsageError as `make` does."""
    with _found(source) as found:
        if not callable(found):
            raise UsageError(f"{source} is {type(found).__name__}, not a function")
        return found  # type: ignore[no-any-return]


def _unpack(made: Any, source: str) -> Made:
    if isinstance(made, torch.nn.Module):
        return Made(made)
    if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], torch.nn.Module)):
        kinds = ", ".join(type(m).__name__ for m in made) if isinstance(made, tuple) else type(made).__name__
        raise UsageError(f"{source} returned {kinds}, want a torch.nn.Module or (module, example_inputs)")
    module, examples = made
    if isinstance(examples, torch.Tensor):
        return Made(module, (examples,))
    if isinstance(examples, dict):
        return Made(module, (), {str(k): v for k, v in examples.items()})
    if isinstance(examples, (tuple, list)):
        return Made(module, tuple(examples))
    raise UsageError(f"{source} returned example inputs of type {type(examples).__name__}, want a tuple, a dict by parameter or a tensor")


def _import_file(path: Path) -> ModuleType:
    """Import a file under a name of its own, so that it hides no other module."""
    if not path.is_file():
        raise UsageError(f"there is no file {path}", hint=nearest(path.name, (p.name for p in path.parent.glob("*.py"))))
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
    name = f"_edgecc_{path.stem}_{digest}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and inspect look a class up by the name of its module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the user's code may raise anything; it is reported with its line
        del sys.modules[name]
        raise UsageError(f"{path} could not be imported: {_described(error)}") from error
    return module


def _import_package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            raise UsageError(f"there is no module {error.name!r}", hint=_HINT) from error
        raise UsageError(f"{name} could not be imported: {_described(error)}") from error
    except (Exception, SystemExit) as error:  # the user's code may raise anything; it is reported with its line
        raise UsageError(f"{name} could not be imported: {_described(error)}") from error


@contextmanager
def _importing_from(directory: Path) -> Iterator[None]:
    """Let imports find the neighbours of a user's file, as `python file.py` does; the working folder stays what it was."""
    entry, working = str(directory), Path.cwd()
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        os.chdir(working)
        if entry in sys.path:
            sys.path.remove(entry)


def _described(error: BaseException) -> str:
    """`ValueError: text` and the innermost line of the user's code."""
    text = f"{type(error).__name__}: {error}".strip()
    if isinstance(error, SyntaxError):
        return f"{text}\n  at {error.filename}:{error.lineno}: {(error.text or '').strip()}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<") and f.filename != __file__]
    own = [f for f in frames if "site-packages" not in f.filename and "importlib" not in f.filename] or frames
    return f"{text}\n  at {own[-1].filename}:{own[-1].lineno}: {own[-1].line}" if own else text
