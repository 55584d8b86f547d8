"""Write: an ONNX model to model.onnx, with its weights beside it in model.onnx.data unless they are small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

MODEL, DATA = "model.onnx", "model.onnx.data"
_EMBEDDED = 2**20  # bytes of weights that the model file itself may hold
_SMALL = 1024  # bytes of a tensor that stays in the model file, where runtimes read shapes and axes


def write(model: Any, directory: Path) -> list[str]:
    """Write an onnx_ir.Model, and give the names of the files beside it.

    Weights go to disk tensor by tensor from the memory that they have; a transposed one is copied while it is written.
    Equal models give equal bytes. ONNX external data: the location is relative to model.onnx.
    """
    import onnx_ir as ir

    total = sum(v.const_value.nbytes for v in model.graph.initializers.values())
    if total <= _EMBEDDED:
        ir.save(model, directory / MODEL)
        return []
    ir.save(model, directory / MODEL, external_data=DATA, size_threshold_bytes=_SMALL)
    return [DATA]
