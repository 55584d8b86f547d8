"""Speedup: the quantized artifact beside the same program in floating point, built by the same target and timed in turns."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecc import benchmark
from edgecc.diagnostics import Remark, Remarks
from edgecc.errors import ContractError, MissingToolError
from edgecc.ir.program import Program
from edgecc.pipeline.context import PassContext, Sample
from edgecc.reference import to_numpy
from edgecc.targeting.base import Target
from edgecc.verification import describe_interface

_SECONDS = 1.0  # of each


@dataclass(frozen=True)
class Speedup:
    """Milliseconds of processor time of one inference, the medians. `note`: what this measurement does not show."""

    runtime: str
    float_ms: float
    quantized_ms: float
    note: str

    @property
    def ratio(self) -> float:
        """How many times as fast the quantized artifact is."""
        return self.float_ms / self.quantized_ms

    def as_dict(self) -> Mapping[str, Any]:
        times = {"float_ms": self.float_ms, "quantized_ms": self.quantized_ms}
        return {"runtime": self.runtime, **times, "ratio": round(self.ratio, 4), "note": self.note or None}


def measure(target: Target, before: Program, directory: Path, manifest: Mapping[str, Any], sample: Sample) -> Speedup:
    """Build the program as it was before it was quantized, and time both on one thread.

    `directory`, `manifest`: the quantized artifact. Raises MissingToolError where nothing here can time the target's artifacts.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "float").mkdir()
        (folder / "case").mkdir()
        inputs = {s.name: to_numpy(t) for s, t in zip(before.signature.inputs, sample, strict=True)}
        benchmark.write_case(inputs, list(inputs), folder / "case")
        facts = target.lower(before, folder / "float", PassContext()).facts
        plain = {**describe_interface(before.signature), "facts": dict(facts)}
        contestants = []
        for key, place, made in (("q", directory, manifest), ("f", folder / "float", plain)):
            (folder / key).mkdir()
            contestants += list(target.contestants(place, made, 1, folder / key))[:1]
        if len(contestants) < 2:
            raise MissingToolError(
                f"nothing here can time an artifact of {target.name}", hint="leave --require-speedup out, or run on the device"
            )
        timings = benchmark.contest(contestants, folder / "case", seconds=_SECONDS, together=True)
    quantized, floating = (t.as_dict()["cpu_ms"]["p50"] for t in timings)  # type: ignore[index]
    return Speedup(contestants[0].runtime, floating, quantized, contestants[0].note)


def judge(found: Speedup, required: bool, remarks: Remarks, target: str) -> None:
    """Remark a quantized artifact that is slower than the float one; raise ContractError where that was asked for."""
    if found.ratio >= 1:
        return
    times = f"{found.quantized_ms:.4g} ms, in floating point {found.float_ms:.4g} ms on {found.runtime}"
    if required:
        raise ContractError(
            f"quantization made the model slower: {times}",
            hint="--quant-layer 'REGEX=float' leaves layers in floating point; another --cpu may have dot products",
        )
    remarks.add(Remark("missed", target, "", f"quantization made the model slower: {times}"))
