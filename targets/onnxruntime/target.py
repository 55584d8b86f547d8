"""onnxruntime: an ONNX file for ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from edgecc.errors import UsageError
from edgecc.targets.onnx_common.lowering.dialect import Dialect
from edgecc.targets.onnx_common.target import OnnxTarget

#: What the int8 kernels of a processor multiply weights by. ONNX Runtime documentation, Quantize ONNX Models
_ACTIVATIONS = {"x86": "u8", "arm": "s8"}


@dataclass(frozen=True)
class OnnxRuntime(OnnxTarget):
    """An ONNX file, and ONNX Runtime on a CPU to run it.

    `cpu`: x86, with VNNI where activations are quantized, or arm. `activations`: u8 or s8, the type of those that the
    program quantizes to int8; that of the processor where not given.
    """

    name: ClassVar[str] = "onnxruntime"
    lacking: ClassVar[Mapping[str, str]] = {"bf16": "ONNX Runtime's CPU has no bfloat16 kernels"}

    cpu: str = "x86"
    activations: str = ""

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
    def dialect(self) -> Dialect:
        return Dialect(self.activations or _ACTIVATIONS[self.cpu], packed=True)
