"""Rule: one statement about a file, its check and where it comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import onnx_ir as ir

from edgecc.targeting.lint import Severity
from edgecc.targets.tensorrt.lint.graph import Graph
from edgecc.targets.tensorrt.lint.profiles import Profile


@dataclass(frozen=True)
class Hit:
    """Where a rule is broken: a node, a tensor, or None for the whole file. `fix` and `severity` replace the rule's own."""

    place: ir.Node | ir.Value | None
    found: str
    fix: str = ""
    severity: Severity | None = None

    @property
    def node(self) -> str:
        if isinstance(self.place, ir.Node):
            return self.place.name or next((v.name for v in self.place.outputs if v.name), "")
        return (self.place.name or "") if self.place is not None else ""

    @property
    def operator(self) -> str:
        return self.place.op_type if isinstance(self.place, ir.Node) else "" if self.place is None else "tensor"


Check = Callable[[Graph, Profile], Iterator[Hit]]


@dataclass(frozen=True)
class Rule:
    """`title` is what must hold, `fix` what to do where it does not, `source` the document that says so."""

    id: str
    severity: Severity
    title: str
    fix: str
    source: str
    check: Check
