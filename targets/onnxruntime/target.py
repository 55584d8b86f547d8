"""onnxruntime: an ONNX file for ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from edgecc.targets.onnx_common.target import OnnxTarget


@dataclass(frozen=True)
class OnnxRuntime(OnnxTarget):
    """An ONNX file, and ONNX Runtime on a CPU to run it."""

    name: ClassVar[str] = "onnxruntime"
    lacking: ClassVar[Mapping[str, str]] = {"bf16": "ONNX Runtime's CPU has no bfloat16 kernels"}

    @property
    def note(self) -> str:
        return ""
