"""Profiles: what one TensorRT release reads. The facts and where they come from stand in `tables/`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecc.diagnostics import nearest
from edgecc.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TABLES = Path(__file__).parent / "tables"


@dataclass(frozen=True)
class Profile:
    """`operators`: the types that each supported operator takes; `unsupported`: those that the release names as refused.

    `restrictions`: names of checks by operator; `opsets`: the lowest and the highest; `types`: what a tensor can hold.
    """

    version: str
    origin: str
    opsets: tuple[int, int]
    types: frozenset[str]
    operators: Mapping[str, frozenset[str]]
    unsupported: frozenset[str]
    restrictions: Mapping[str, Sequence[str]]

    @property
    def name(self) -> str:
        return f"trt-{self.version}"

    @property
    def strongly_typed(self) -> bool:
        """Whether the types of the file are the types of the engine: TensorRT 11 has no weak typing (its release notes, 11.0.0)."""
        return int(self.version.partition(".")[0]) >= 11


def versions() -> list[str]:
    return sorted((p.name.removesuffix(".toml") for p in TABLES.glob("*.toml")), key=_number)


def profile(version: str) -> Profile:
    """The profile of a TensorRT release. Raises UsageError with the nearest one."""
    known = versions()
    if version not in known:
        same_major = [v for v in known if v.partition(".")[0] == version.partition(".")[0]]
        hint = f"known: {', '.join(known)}; the nearest is {max(same_major, key=_number)}" if same_major else nearest(version, known)
        raise UsageError(f"no profile of TensorRT {version!r}", hint=hint)
    table = _read(version)
    return Profile(
        version=version,
        origin=table["origin"],
        opsets=(table["opsets"][0], table["opsets"][1]),
        types=frozenset(table["types"].split()),
        operators=table["operators"],
        unsupported=frozenset(table["unsupported"]) - table["operators"].keys(),
        restrictions=table["restrictions"],
    )


def _read(version: str) -> dict[str, Any]:
    """A table with the tables that it extends: a later one adds operators and replaces types and restrictions."""
    raw = tomllib.loads((TABLES / f"{version}.toml").read_text())
    base = _read(raw["extends"]) if "extends" in raw else {"operators": {}, "unsupported": [], "restrictions": {}}
    operators = {name: frozenset(group["types"].split()) for group in raw["operators"] for name in group["names"].split()}
    return {
        **raw,
        "operators": {**base["operators"], **operators},
        "unsupported": [*base["unsupported"], *raw.get("unsupported", "").split()],
        "restrictions": {**base["restrictions"], **raw.get("restrictions", {})},
    }


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
