"""How far llama.cpp may be from PyTorch with the same weights: what its arithmetic rounds that float32 does not."""

from __future__ import annotations

from edgecc.targets.gguf.plan import Plan

#: The largest difference of logits, over their largest: activations are rounded to float16 and bfloat16 beside such weights, to
#: blocks of 8 bits beside quantized ones, and GELU is read from a table of float16.
_TOLERANCES = {"f32": 1e-4, "f16": 1e-2, "bf16": 5e-2}
_QUANTIZED, _TABLE = 0.1, 5e-3
_QUANTIZED_SQNR = 25.0  # dB; what blocks of 8 bits of activations leave is about 40


def tolerance(plan: Plan) -> float:
    """The largest difference over the largest output."""
    formats = {row.format for row in plan.rows() if len(row.shape) > 1}
    own = max(_TOLERANCES.get(f, _QUANTIZED) for f in formats)
    return max(own, _TABLE) if plan.architecture.activation.startswith("gelu") else own


def min_sqnr_db(plan: Plan) -> float:
    """The noise of all outputs together, 0 where the largest difference says enough."""
    return 0.0 if {row.format for row in plan.rows()} <= set(_TOLERANCES) else _QUANTIZED_SQNR
