"""tensorrt: an ONNX file for TensorRT, which cannot run here: its numbers are verified in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgecc.diagnostics import Remark
from edgecc.errors import ContractError, UsageError
from edgecc.pipeline.numerics import Distance
from edgecc.quantization.support import QuantSupport
from edgecc.targeting.base import Lowered
from edgecc.targeting.lint import LintReport
from edgecc.targets.onnx_common.lowering.dialect import Dialect
from edgecc.targets.onnx_common.target import SMOOTHING, OnnxTarget
from edgecc.targets.onnx_common.write import MODEL
from edgecc.targets.tensorrt import sidecar
from edgecc.targets.tensorrt.lint import profiles
from edgecc.targets.tensorrt.ranges import ranges

if TYPE_CHECKING:
    from edgecc.ir.program import Program
    from edgecc.pipeline.context import PassContext

#: The last opset that each release reads. onnx-tensorrt, docs/operators.md of the release
_PROFILES = {"10.1": 20, "10.15": 24, "11.1": 24}


@dataclass(frozen=True)
class TensorRT(OnnxTarget):
    """An ONNX file for TensorRT 10 and 11, which is not run here: ONNX Runtime verifies the numbers.

    `profile`: the release. The default opset is what the 10.x releases on devices read.
    """

    name: ClassVar[str] = "tensorrt"

    profile: str = "10.15"

    @property
    def note(self) -> str:
        return "TensorRT itself was not run"

    @property
    def quantization(self) -> QuantSupport:
        return QuantSupport(
            *("clean", True, (4, 8), (8,), (0, 64, 128)),
            asymmetric_weights=False,
            dynamic=False,
            codes=("int", "nvfp4"),
            precisions=("fp16", "bf16"),
            added=(SMOOTHING,),
        )

    @property
    def dialect(self) -> Dialect:
        return Dialect(symmetric=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.profile not in _PROFILES:
            raise UsageError(f"profile is {self.profile!r}, want one of {', '.join(_PROFILES)}")
        if self.opset > _PROFILES[self.profile]:
            raise UsageError(f"TensorRT {self.profile} reads opsets up to {_PROFILES[self.profile]}, and opset is {self.opset}")

    def lower(self, program: Program, directory: Path, context: PassContext) -> Lowered:
        """Write model.onnx and, for the machine that has TensorRT, build_engine.sh and README.txt.

        Raises UsageError for a dynamic dimension without an upper bound, ContractError where the file breaks a rule of the
        profile, with every node that does.
        """
        shapes = ranges(program)
        lowered = super().lower(program, directory, context)
        context.progress.detail(f"lint by the rules of TensorRT {self.profile}")
        report = self.lint(directory / MODEL, self.profile)
        for found in report.findings:
            if found.severity == "W":
                message = f"{found.rule}: {found.found}: {found.fix} ({found.source})"
                context.remarks.add(Remark("missed", f"{self.name}-lint", found.node, message))
        _refuse(report)
        by_flag = not profiles.profile(self.profile).strongly_typed
        sidecar.write(directory, self.profile, shapes, program.signature, context.samples, typed_by_flag=by_flag)
        return replace(lowered, facts={**lowered.facts, "lint": report.verdict.partition(";")[0]})

    def verdict(self, facts: Mapping[str, Any], distance: Distance | None) -> str:
        floats = facts.get("floats")
        where = "runs in ONNX Runtime, without its Q/DQ fusions," if floats else "runs in ONNX Runtime"
        where = "ONNX Runtime was not run; ONNX's reference evaluator computes it" if floats == "fp4" else where
        ran = f"{where} with cosine {distance.cosine:.9f}" if distance else "ONNX Runtime was not run"
        return f"{facts['lint']}; {ran}; {self.note}"

    def lint(self, file: Path, profile: str) -> LintReport:
        from edgecc.targets.tensorrt import lint

        return lint.lint(file, profile)


def _refuse(report: LintReport) -> None:
    """Raises ContractError that lists what TensorRT would refuse."""
    errors = [f for f in report.findings if f.severity == "E"]
    if errors:
        lines = [f"{f.rule}: {f.node or 'the file'}{f' ({f.operator})' if f.operator else ''}: {f.found}\n    do: {f.fix}" for f in errors]
        raise ContractError(
            f"the ONNX file breaks {len({f.rule for f in errors})} rule(s) of {report.profile}:\n  " + "\n  ".join(lines),
            hint="change the model there, or another profile: --set target_options.profile=11.1",
        )
