"""Report: what a compile did, as the one object that report.json, remarks.jsonl and the printed summary come from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgecc.analysis.cost import Cost, cost
from edgecc.artifact import write_json
from edgecc.diagnostics import Remarks
from edgecc.ir.program import Program
from edgecc.pipeline.context import PassContext
from edgecc.pipeline.instruments import Instrument, Step
from edgecc.pipeline.numerics import Distance
from edgecc.targeting.agreement import Agreement


@dataclass(frozen=True)
class RuntimeCheck:
    """One runtime that executed the artifact, on how many cases, and how far it was from the original model."""

    runtime: str
    cases: int
    distance: Distance

    def as_dict(self) -> dict[str, Any]:
        return {"runtime": self.runtime, "cases": self.cases, **self.distance.as_dict()}


@dataclass
class Report:
    """`original` is the traced model's cost, `compiled` that of the program that was lowered; `checks` has the most
    faithful runtime first. `memory` is the target's plan for intermediate values in bytes, None where it makes none.
    `quantization` says what became of each layer, `training` what each epoch did, `evaluation` how good the model was before and
    after, None where nobody asked. `agreement`: that of quantized activations with PyTorch, None where there are none.
    `assessment`: how far a language model is from the original one, by the measures of its kind.
    `facts` are what the target says of the artifact (JSON values), `verdict` the line that sums up what is known of it.
    """

    original: Cost
    compiled: Cost | None = None
    steps: Sequence[Step] = ()
    checks: list[RuntimeCheck] = field(default_factory=list)
    agreement: Agreement | None = None
    assessment: Mapping[str, Any] = field(default_factory=dict)
    remarks: Remarks = field(default_factory=Remarks)
    model_bytes: int = 0
    memory: Mapping[str, int] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    verdict: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    quantization: Mapping[str, Any] | None = None
    training: Mapping[str, Any] | None = None
    evaluation: Mapping[str, float] | None = None
    speedup: Mapping[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """The documented keys of report.json."""
        return {
            "schema": 1,
            "passes": [_step(s) for s in self.steps],
            "verify": self._verify() if self.checks else None,
            "size_bytes": {"model": self.model_bytes, "original_weights": self.original.bytes},
            "memory": dict(self.memory) if self.memory else None,
            "facts": dict(self.facts),
            "quantization": self.quantization,
            "training": self.training,
            "evaluation": self.evaluation,
            "speedup": self.speedup,
            "verdict": self.verdict or None,
            "original": self.original.as_dict(),
            "compiled": self.compiled.as_dict() if self.compiled else None,
            "seconds": {k: round(v, 3) for k, v in self.seconds.items()},
        }

    def _verify(self) -> dict[str, Any]:
        found = {**self.checks[0].as_dict(), "runtimes": [c.as_dict() for c in self.checks]}
        found |= {"quantized": dict(self.agreement.as_dict())} if self.agreement else {}
        return found | ({"language_model": dict(self.assessment)} if self.assessment else {})

    def write(self, directory: Path) -> None:
        """Write report.json and remarks.jsonl."""
        write_json(directory / "report.json", self.as_dict())
        (directory / "remarks.jsonl").write_text("".join(json.dumps(r.as_dict()) + "\n" for r in self.remarks))


class RecordCost(Instrument):
    """Put nodes, parameters, bytes and MACs after each changing pass into its step."""

    def after(self, step: Step, program: Program, context: PassContext) -> None:
        found = cost(program)
        step.facts |= {"nodes": found.nodes, "parameters": found.parameters, "bytes": found.bytes, "macs": found.macs}


def _step(step: Step) -> dict[str, Any]:
    return {
        "name": step.pass_.name,
        "spec": str(step.pass_),
        "phase": step.phase,
        "rewrites": step.rewrites,
        "seconds": round(step.seconds, 4),
        **step.facts,
    }
