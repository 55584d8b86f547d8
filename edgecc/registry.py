"""What passes and targets exist: those of this package, of entry points, and of files that the user loads."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import edgecc.passes
import edgecc.targets
from edgecc.diagnostics import nearest
from edgecc.errors import UsageError
from edgecc.options import frozen
from edgecc.pipeline.base import NAME, Pass
from edgecc.targeting.base import Target


@dataclass
class Registry:
    """Classes by name. A name that two classes claim is an error that names both files."""

    passes: dict[str, type[Pass]] = field(default_factory=dict)
    targets: dict[str, type[Target]] = field(default_factory=dict)

    @classmethod
    def create(cls, load: Iterable[Path] = ()) -> Registry:
        """Collect this package's own, then entry points `edgecc.passes` and `edgecc.targets`, then the files `load`."""
        registry = cls()
        for found in (*_own_passes(), *_own_targets(), *_entry_points()):
            registry.add(found)
        for file in load:
            for found in classes(_import_file(file)):
                registry.add(found)
        return registry

    def add(self, found: type[Pass] | type[Target]) -> None:
        """Raises UsageError for a bad name and for one that is taken."""
        table: dict[str, type] = self.passes if issubclass(found, Pass) else self.targets
        name = getattr(found, "name", None)
        if not isinstance(name, str) or not NAME.fullmatch(name.replace("_", "-")):
            raise UsageError(f"{found.__qualname__} in {_file(found)} has the name {name!r}, want lower-case words such as 'fuse-gelu'")
        if name in table and table[name] is not found:
            raise UsageError(f"{name!r} is defined twice: in {_file(table[name])} and in {_file(found)}", hint="rename one of them")
        table[name] = found

    def target(self, name: str) -> type[Target]:
        """Raises UsageError with the nearest name."""
        if name not in self.targets:
            raise UsageError(f"unknown target {name!r}", hint=nearest(name, self.targets))
        return self.targets[name]

    def create_target(self, name: str, options: Mapping[str, Any]) -> Target:
        """A target with options by name. Raises UsageError for an unknown one and for a value of the wrong type."""
        kind = self.target(name)
        declared = {f.name: f.default for f in fields(kind)}
        options = {key: frozen(value) for key, value in options.items()}
        for key, value in options.items():
            if key not in declared:
                raise UsageError(f"target {name!r} has no option {key!r}", hint=nearest(key, declared))
            default = declared[key]
            if default is not None and type(value) is not type(default):
                raise UsageError(f"option {key!r} of target {name!r} is {value!r}, want {type(default).__name__} such as {default!r}")
        return kind(**options)


def classes(module: ModuleType) -> list[type[Pass] | type[Target]]:
    """The concrete passes and targets that a module itself defines, in source order."""
    return [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, (Pass, Target))
        and value.__module__ == module.__name__
        and not inspect.isabstract(value)
    ]


def _own_passes() -> Iterator[type[Pass] | type[Target]]:
    for info in sorted(pkgutil.iter_modules(edgecc.passes.__path__), key=lambda i: i.name):
        yield from classes(importlib.import_module(f"edgecc.passes.{info.name}"))


def _own_targets() -> Iterator[type[Pass] | type[Target]]:
    for info in sorted(pkgutil.iter_modules(edgecc.targets.__path__), key=lambda i: i.name):
        if importlib.util.find_spec(f"edgecc.targets.{info.name}.target"):
            yield from classes(importlib.import_module(f"edgecc.targets.{info.name}.target"))


def _entry_points() -> Iterator[type[Pass] | type[Target]]:
    for group in ("edgecc.passes", "edgecc.targets"):
        for entry in sorted(entry_points(group=group), key=lambda e: e.name):
            found = entry.load()
            if not (inspect.isclass(found) and issubclass(found, (Pass, Target))):
                raise UsageError(f"entry point {entry.name!r} of {group} gives {found!r}, want a Pass or Target class")
            yield found


def _import_file(file: Path) -> ModuleType:
    """Run a Python file that the user named, as a module of its own."""
    if not file.is_file():
        raise UsageError(f"--load {file}: there is no such file")
    path = file.resolve()
    name = f"edgecc_loaded_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"--load {file}: not a Python file", hint="name a .py file that defines Pass or Target subclasses")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's file may raise anything
        del sys.modules[name]
        raise UsageError(f"--load {file}: {type(error).__name__}: {error}") from error
    if not classes(module):
        raise UsageError(
            f"--load {file}: it defines no Pass and no Target", hint="subclass edgecc.Pass, edgecc.RewritePass or edgecc.Target"
        )
    return module


def _file(found: type) -> str:
    return inspect.getsourcefile(found) or found.__module__
