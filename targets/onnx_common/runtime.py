"""ONNX Runtime as a runner, and as a contestant that is timed."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgecc.errors import ContractError, MissingToolError
from edgecc.targeting.base import Arrays, Requirement, Runner
from edgecc.targeting.packages import installed
from edgecc.targeting.timing import Contestant

INSTALL = "pip install 'edgecc[onnx]'"


class OnnxRuntimeRunner(Runner):
    """An ONNX file in ONNX Runtime on this machine's CPU. `note` says what this run does not show. `fusions`: whether Q/DQ
    may become integer operators; of FP8 its optimizer makes an invalid graph.
    """

    def __init__(self, model: Path, threads: int, note: str = "", *, fusions: bool = True) -> None:
        note = note if fusions else "; ".join(filter(None, ["without its Q/DQ fusions", note]))
        self.runtime = f"onnxruntime {installed('onnxruntime')}" + (f" ({note})" if note else "")
        self._session = _session(model, threads, fusions=fusions)

    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        names = [port.name for port in self._session.get_outputs()]
        given = {port.name: inputs[port.name] for port in self._session.get_inputs()}
        try:
            return dict(zip(names, self._session.run(names, given), strict=True))
        except Exception as error:  # ONNX Runtime raises classes of its own that derive from nothing else
            raise ContractError(f"the model failed in {self.runtime}: {error}") from error


def _session(model: Path, threads: int, *, fusions: bool = True) -> Any:
    if not installed("onnxruntime"):
        raise MissingToolError("ONNX Runtime is not installed", hint=INSTALL)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3  # errors only
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")  # float32: 4, its own, rounds activations to int8
    options.add_session_config_entry("session.disable_quant_qdq", "0" if fusions else "1")
    try:
        return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # as in `run`
        raise ContractError(f"ONNX Runtime {installed('onnxruntime')} cannot load {model.name}: {error}") from error


def contestant(model: Path, threads: int, note: str = "") -> Contestant:
    """The same file, timed in a process of its own."""
    command = (sys.executable, "-m", "edgecc.peers.onnxruntime_peer", str(model.resolve()), "-t", str(threads))
    return Contestant(f"onnxruntime {installed('onnxruntime')}", command, note)


def find_requirements() -> Sequence[Requirement]:
    return [
        Requirement("onnx", installed("onnx"), "the file format", INSTALL),
        Requirement("onnx-ir", installed("onnx-ir"), "builds and writes the model", INSTALL),
        Requirement("onnxruntime", installed("onnxruntime"), "runs the model to verify it", INSTALL),
        Requirement(
            "onnxscript", installed("onnxscript"), "PyTorch's exporter, for operators that edgecc does not lower", INSTALL, required=False
        ),
    ]


def require_onnx() -> None:
    """Raise MissingToolError where what writes a model is missing."""
    missing = [name for name in ("onnx", "onnx-ir") if not installed(name)]
    if missing:
        raise MissingToolError(f"{' and '.join(missing)} is not installed", hint=INSTALL)
