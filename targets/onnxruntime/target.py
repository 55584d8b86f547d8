"""onnxruntime: an ONNX file for ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgecc.errors import UsageError
from edgecc.quantization.support import QuantSupport
from edgecc.targeting.base import Lowered, Runner
from edgecc.targets.onnx_common.half_runner import HalfRunner
from edgecc.targets.onnx_common.lowering.dialect import Dialect
from edgecc.targets.onnx_common.ort_format import ORT_MODEL, convert
from edgecc.targets.onnx_common.target import SMOOTHING, OnnxTarget

if TYPE_CHECKING:
    from edgecc.ir.program import Program
    from edgecc.pipeline.context import PassContext

#: What the int8 kernels of a processor multiply weights by. ONNX Runtime documentation, Quantize ONNX Models
_ACTIVATIONS = {"x86": "u8", "arm": "s8"}
_PLATFORMS = {"x86": "amd64", "arm": "arm"}


@dataclass(frozen=True)
class OnnxRuntime(OnnxTarget):
    """An ONNX file, and ONNX Runtime on a CPU to run it.

    `cpu`: x86, with VNNI where activations are quantized, or arm. `activations`: u8 or s8, the type of those that the
    program quantizes to int8; that of the processor where not given. `ort_format`: whether model.ort is written too.
    """

    name: ClassVar[str] = "onnxruntime"
    lacking: ClassVar[Mapping[str, str]] = {"bf16": "ONNX Runtime's CPU has no bfloat16 kernels"}

    cpu: str = "x86"
    activations: str = ""
    ort_format: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cpu not in _ACTIVATIONS:
            raise UsageError(f"cpu is {self.cpu!r}, want {' or '.join(_ACTIVATIONS)}")
        if self.activations not in ("", *_ACTIVATIONS.values()):
            raise UsageError(f"activations is {self.activations!r}, want {' or '.join(_ACTIVATIONS.values())}")

    @property
    def note(self) -> str:
        return ""

    @property
    def quantization(self) -> QuantSupport:
        return QuantSupport("convolutions", codes=("int", "nf4"), precisions=("fp16",), added=(SMOOTHING,))

    @property
    def dialect(self) -> Dialect:
        return Dialect(self.activations or _ACTIVATIONS[self.cpu], onnxruntime=True)

    def lower(self, program: Program, directory: Path, context: PassContext) -> Lowered:
        lowered = super().lower(program, directory, context)
        if not self.ort_format:
            return lowered
        context.progress.detail("convert to the ORT format")
        convert(directory, _PLATFORMS[self.cpu])
        return replace(lowered, facts={**lowered.facts, ORT_MODEL: (directory / ORT_MODEL).stat().st_size})

    def runners(self, directory: Path, manifest: Mapping[str, Any]) -> Sequence[Runner]:
        found = super().runners(directory, manifest)
        if not self.ort_format:
            return found
        threads = int(manifest["facts"]["threads"])
        return [*found, HalfRunner(directory / ORT_MODEL, threads, ORT_MODEL, manifest)]
