"""How far an artifact may be from the original model."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from edgecc.ir.integer import reads_codes
from edgecc.ir.program import Program
from edgecc.ir.quantized import is_dequantize, is_float8, is_quantize
from edgecc.options import CompileOptions
from edgecc.pipeline.context import Sample
from edgecc.pipeline.numerics import compare, rounding
from edgecc.targeting.base import Lowered, Target

#: Tolerance for the largest difference of a program that quantizes activations, and SQNR in dB for all of them (a cosine of
#: 0.99). A sum that float32 rounds otherwise may fall into the next step of 127, which moves every number after it: PyTorch
#: differs so from itself. Where the target can, each call is compared besides (`Target.agreement`).
QUANTIZED = 0.2, 17.0
#: The same in half precision, whose roundings move most integers of deep layers: MiniLM's float32 program in PyTorch is 0.17 and
#: 8 dB from itself with every result rounded to float16, as far as it is from the model that is not quantized.
QUANTIZED_HALF = 0.5, 6.0


def bounds_of(
    program: Program,
    target: Target,
    options: CompileOptions,
    samples: Sequence[Sample],
    wanted: Sequence[tuple[torch.Tensor, ...]],
    lowered: Lowered,
) -> tuple[float, float]:
    """The tolerance and the SQNR that the user states, else what the target's arithmetic and quantized activations need.

    `program` is what was lowered, `wanted` the outputs of the original model for `samples`.
    """
    stated = options.tolerance
    if stated != CompileOptions.tolerance:
        return stated, 0.0
    own = max(lowered.tolerance or target.tolerance or stated, rounding(program.dtypes()))
    if lowered.lossy:
        lost = compare(wanted, [program(*sample) for sample in samples])
        return own + lost.relative, _added_noise(lowered.min_sqnr_db, lost.sqnr_db) if lowered.min_sqnr_db else 0.0
    calls = program.calls()
    if not _asks_for_quantization(options) and not any(is_dequantize(n) or reads_codes(n) or is_float8(n) for n in calls):
        return own, 0.0
    lost = compare(wanted, [program(*sample) for sample in samples])  # 0 where it was quantized before it came here
    if not any(is_quantize(n) or is_float8(n) for n in calls):
        return own + lost.relative, 0.0
    loose, sqnr = QUANTIZED if own == stated else QUANTIZED_HALF
    return max(own, loose) + lost.relative, _added_noise(sqnr, lost.sqnr_db)


def _asks_for_quantization(options: CompileOptions) -> bool:
    """Whether the options put fake-quant nodes in: what codes of 4 bits become are no q/dq operators."""
    return bool(options.quant) or "insert-fake-quant" in options.pipeline or any("insert-fake-quant" in text for _, text in options.insert)


def _added_noise(first: float, second: float) -> float:
    """The SQNR in dB of two noises at their worst, one in the direction of the other."""
    return -20 * math.log10(10 ** (-first / 20) + 10 ** (-second / 20))
