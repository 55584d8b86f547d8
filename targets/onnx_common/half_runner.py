"""Half precision in ONNX Runtime, which has few float16 kernels for CPUs and no bfloat16 ones.

What it has no kernel for it computes in float32, and it removes the casts between two such operators: a number that overflows
on a device does not there. So the file is also run with casts of our own around every operator, which ONNX Runtime keeps: each
result is rounded to half precision, as a device that accumulates in float32 rounds it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgecc.errors import ContractError
from edgecc.targeting.base import Arrays, Runner
from edgecc.targeting.packages import installed
from edgecc.targets.onnx_common import widen
from edgecc.targets.onnx_common.runtime import OnnxRuntimeRunner
from edgecc.targets.onnx_common.write import MODEL, write

_NAMES = {"fp16": "FLOAT16", "bf16": "BFLOAT16"}


def runners(model: Path, threads: int, note: str, manifest: Mapping[str, Any]) -> list[Runner]:
    """The file as ONNX Runtime runs it, where it does, and rounded; what a device would compute comes first.

    Raises ContractError where ONNX Runtime is what the file is for, `note` being empty, and it cannot load it.
    """
    precision = manifest["facts"]["precision"]
    rounded = RoundedRunner(model, threads, note, precision, manifest)
    if precision == "bf16":
        return [rounded]
    if _crashes(model):
        if note:
            return [rounded]
        raise ContractError(
            f"ONNX Runtime {installed('onnxruntime')} crashes when it loads this float16 file at its default optimization level",
            hint="--precision fp32",
        )
    return [rounded, HalfRunner(model, threads, note, manifest)]


def _crashes(model: Path) -> bool:
    """Whether loading ends the process: that of 1.31.1 does, in MatmulTransposeFusion and NchwcTransformer, on some graphs."""
    load = "import sys, onnxruntime; onnxruntime.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])"
    return subprocess.run([sys.executable, "-c", load, str(model)], capture_output=True, check=False).returncode < 0


class HalfRunner(OnnxRuntimeRunner):
    """A float32 or float16 file as it is. Takes and gives the dtypes of the manifest, whatever those of the file."""

    def __init__(self, model: Path, threads: int, note: str, manifest: Mapping[str, Any]) -> None:
        how = "float32 where its CPU has no float16 kernel" if manifest["facts"]["precision"] == "fp16" else ""
        super().__init__(model, threads, "; ".join(filter(None, [how, note])))
        self._dtypes = {spec["name"]: spec["dtype"] for spec in manifest["outputs"]}

    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        halved = {port.name for port in self._session.get_inputs() if port.type == "tensor(float16)"}
        given = {name: x.astype(np.float16) if name in halved else x for name, x in inputs.items()}
        return {name: _as(x, self._dtypes[name]) for name, x in super().run(given).items()}


class RoundedRunner(OnnxRuntimeRunner):
    """A file of half precision with every operator in float32 and its result rounded. Takes and gives the dtypes of the
    manifest, float32 where there is none.
    """

    def __init__(self, model: Path, threads: int, note: str, precision: str, manifest: Mapping[str, Any] | None = None) -> None:
        self._dtypes = {spec["name"]: spec["dtype"] for spec in manifest["outputs"]} if manifest else {}
        how = f"each operator in float32, rounded to {_NAMES[precision].lower()}"
        with tempfile.TemporaryDirectory() as folder:
            _write_rounded(model, Path(folder), _NAMES[precision])
            super().__init__(Path(folder, MODEL), threads, "; ".join(filter(None, [how, note])))

    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        given = {name: x.astype(np.float32) if x.dtype == np.float16 else x for name, x in inputs.items()}
        return {name: x.astype(np.float16) if self._dtypes.get(name) == "float16" else x for name, x in super().run(given).items()}


def _as(x: np.ndarray[Any, Any], dtype: str) -> np.ndarray[Any, Any]:
    return x.astype(np.float32) if x.dtype == np.float16 and dtype == "float32" else x


def _write_rounded(file: Path, folder: Path, name: str) -> None:
    """The model with each operand of half precision cast to float32 and each such result cast back."""
    import onnx_ir as ir

    model = ir.load(file)
    graph, half, full = model.graph, ir.DataType[name], ir.DataType.FLOAT
    for value in [v for v in graph.inputs if v.dtype == half]:
        users = list(value.uses())
        value.type = ir.TensorType(full)
        widen.redirect(users, widen.cast(graph, value, half, before=graph[0]))
    for index, value in [(k, v) for k, v in enumerate(graph.outputs) if v.dtype == half]:
        result = widen.cast(graph, value, full)
        result.name, value.name = value.name, f"{value.name}/half"
        graph.outputs[index] = result
    widen.widen(graph, [n for n in graph if n.op_type != "Cast"], half)
    write(model, folder)
