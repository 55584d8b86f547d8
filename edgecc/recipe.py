"""Recipe: a compile as a TOML file. Every flag has a key; a run directory holds the one that rebuilds it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from edgecc.diagnostics import nearest
from edgecc.errors import UsageError
from edgecc.options import CompileOptions, frozen

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class Recipe:
    """`model`, `factory` and `inputs` are MODEL, `--model` and `--input` of the command line; empty where a model was
    given as a Python object. `target_options` are fields of the target's class, `load` files of passes and targets,
    `calibration` an `.npz` of inputs, a folder of such files or `module:function`, `eval` a `module:function` that says how good
    a program is, `qat` a `module:function` that gives what to train on, `qat_checkpoint` a file and `qat_log` a folder that it writes.
    """

    model: str = ""
    factory: str = ""
    inputs: tuple[str, ...] = ()
    target: str = ""
    load: tuple[str, ...] = ()
    calibration: str = ""
    eval: str = ""
    qat: str = ""
    qat_checkpoint: str = ""
    qat_log: str = ""
    target_options: Mapping[str, Any] = field(default_factory=dict)
    options: CompileOptions = field(default_factory=CompileOptions)

    def with_key(self, key: str, value: Any) -> Recipe:
        """Set one key: a field of the recipe, of `options` (`options.seed`), or `target_options.cpu`.

        Raises UsageError for an unknown key or a value of the wrong type.
        """
        table, _, name = key.rpartition(".")
        if table == "target_options":
            return replace(self, target_options={**self.target_options, name: frozen(value)})
        if table == "options":
            return replace(self, options=replace(self.options, **{name: _checked(key, value, self.options, name)}))
        if table or name in ("target_options", "options"):
            raise UsageError(f"unknown recipe key {key!r}", hint=nearest(key, _keys()))
        return replace(self, **{name: _checked(key, value, self, name)})

    def to_toml(self) -> str:
        """The recipe as TOML; parsing it gives an equal recipe."""
        lines = [f"{f.name} = {_toml(getattr(self, f.name))}" for f in fields(self) if f.name not in ("target_options", "options")]
        lines += ["", "[target_options]", *(f"{k} = {_toml(v)}" for k, v in sorted(self.target_options.items()) if v is not None)]
        lines += ["", "[options]", *(f"{f.name} = {_toml(getattr(self.options, f.name))}" for f in fields(self.options))]
        return "\n".join(lines) + "\n"


def read(path: Path) -> Recipe:
    """Raises UsageError for a missing file, bad TOML, unknown keys and wrong types."""
    try:
        content = tomllib.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"recipe {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"recipe {path} is not TOML: {error}") from error
    recipe = Recipe()
    for key, value in content.items():
        if key in ("target_options", "options") and isinstance(value, dict):
            for name, inner in value.items():
                recipe = recipe.with_key(f"{key}.{name}", inner)
        else:
            recipe = recipe.with_key(key, value)
    return recipe


def _keys() -> list[str]:
    return [f.name for f in fields(Recipe)] + [f"options.{f.name}" for f in fields(CompileOptions)]


def _checked(key: str, value: Any, owner: Any, name: str) -> Any:
    if name not in {f.name for f in fields(owner)}:
        raise UsageError(f"unknown recipe key {key!r}", hint=nearest(key, _keys()))
    old = getattr(owner, name)
    value = frozen(value)
    if isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not type(old):
        raise UsageError(f"recipe key {key!r} is {value!r}, want {type(old).__name__} such as {old!r}")
    return value


def _toml(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)
