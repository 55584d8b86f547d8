"""Write: an ONNX model to model.onnx, with its weights beside it in model.onnx.data unless they are small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgecc.targets.onnx_common.graph import QDQ

MODEL, DATA = "model.onnx", "model.onnx.data"
_EMBEDDED = 2**20  # bytes of weights that the model file itself may hold
_SMALL = 1024  # bytes of a tensor that stays in the model file, where runtimes read shapes and axes


def write(model: Any, directory: Path) -> list[str]:
    """Write an onnx_ir.Model, and give the names of the files beside it.

    Weights go to disk tensor by tensor from the memory that they have; a transposed one is copied while it is written.
    Equal models give equal bytes. ONNX external data: the location is relative to model.onnx.
    """
    import onnx_ir as ir

    _drop_known_types(model.graph)
    total = sum(v.const_value.nbytes for v in model.graph.initializers.values())
    if total <= _EMBEDDED:
        ir.save(model, directory / MODEL)
        return []
    ir.save(model, directory / MODEL, external_data=DATA, size_threshold_bytes=_SMALL)
    return [DATA]


def _drop_known_types(graph: Any) -> None:
    """Leave out types that a file has anyway: a weight's stand in its tensor, those of Q/DQ follow from scale and zero point."""
    ports = {*graph.inputs, *graph.outputs}
    between = [value for node in graph if node.op_type in QDQ for value in node.outputs]
    for value in [*graph.initializers.values(), *between]:
        if value not in ports:
            value.type = value.shape = None
