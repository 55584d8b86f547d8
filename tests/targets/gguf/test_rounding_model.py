"""A small trained Llama: rounded with calibration it diverges less from itself than what ggml makes of it with its importance matrix."""

from __future__ import annotations

import pytest
import torch

from tests.targets.gguf.vocabulary_host import SHARED

MODELS = SHARED / "models"


@pytest.mark.slow
@pytest.mark.skipif(not MODELS.exists(), reason="the trained models of the benchmarks are not here")
def test_a_small_llama_in_q4_0_diverges_at_most_seven_tenths_as_much():
    """`tools/bench.py gguf-quality` has 433 windows of calibration text and 200 held out; here are 32 and 8, and little text rounds less well."""
    from tools.benchmarks.gguf_quality import Pyllama

    with torch.no_grad():
        case = Pyllama(MODELS / "pyllama", held_out=8, calibration=32)
        formats = case.formats("q4_0")
        theirs = case.quality(case.theirs(formats, case.moments()))
        ours = case.quality(dict(case.ours(formats)))
    assert set(formats.values()) == {"q4_0", "q6_k"}
    assert ours[0] <= 0.7 * theirs[0]
