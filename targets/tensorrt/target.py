"""tensorrt: an ONNX file for TensorRT, which cannot run here: its numbers are verified in ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from edgecc.errors import UsageError
from edgecc.targeting.lint import LintReport
from edgecc.targets.onnx_common.target import OnnxTarget

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

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.profile not in _PROFILES:
            raise UsageError(f"profile is {self.profile!r}, want one of {', '.join(_PROFILES)}")
        if self.opset > _PROFILES[self.profile]:
            raise UsageError(f"TensorRT {self.profile} reads opsets up to {_PROFILES[self.profile]}, and opset is {self.opset}")

    def lint(self, file: Path, profile: str) -> LintReport:
        from edgecc.targets.tensorrt import lint

        return lint.lint(file, profile)
