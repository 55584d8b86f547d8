"""A place where a model begins to differ from an architecture of llama.cpp."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from edgecc.ir import provenance


@dataclass(frozen=True)
class Difference:
    """Where a model begins to differ from an architecture. `small`: its effect is that of an approximation."""

    node: fx.Node
    found: str
    wanted: str
    layer: int | None = None
    small: bool = False

    def __str__(self) -> str:
        place = "" if self.layer is None else f"layer {self.layer}, "
        return f"{place}%{self.node.name}: {self.found}, want {self.wanted}\n    {provenance.describe(self.node)}"
