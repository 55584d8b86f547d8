"""The report of a quantized program: bits, ranges, noise, saturation and bytes of each layer, scales counted."""

from __future__ import annotations

import pytest
import torch

from edgecc.quantization.layers import stored_bytes, summarize
from tests.quantization.nets import Residual, Transformer, images, normal, run, sqnr, traced

INT8 = "insert-fake-quant, calibrate{method='min-max'}, finalize-quant"


def made(text=INT8, kind=Residual, x=None):
    x = images() if x is None else x
    before, after = traced(kind, x), traced(kind, x)
    run(before, "canonicalize")
    run(after, f"canonicalize, {text}", (x,))
    return before, after


def test_a_line_a_layer():
    summary = summarize(*made(), [(images(),)])
    assert [(n.name, n.weight_bits, n.activation_bits) for n in summary.layers] == [("stem", 8, 8), ("deep", 8, 8), ("fc", 8, 8)]
    assert summary.integer_share == 1.0


def test_bytes_are_those_of_integers_and_scales():
    """Of stem: 8 filters of 27 bytes, 8 scales of 4."""
    before, after = made()
    stem, deep, fc = summarize(before, after, [(images(),)]).layers
    assert (stem.bytes, deep.bytes, fc.bytes) == (8 * 27 + 8 * 4, 8 * 72 + 8 * 4, 5 * 8 + 5 * 4)
    biases = 4 * (8 + 8 + 5)
    assert stored_bytes(after) == stem.bytes + deep.bytes + fc.bytes + biases
    assert stored_bytes(before) == 4 * (8 * 27 + 8 * 72 + 5 * 8) + biases


@pytest.mark.parametrize(
    ("scheme", "count"),
    [
        ("int4-weight-channel", 16 * 48 / 2 + 48 * 4),
        ("int4-weight-g16", 16 * 48 / 2 + 48 * 4),
        ("int4-weight-g16-asym", 16 * 48 / 2 + 48 * (4 + 1)),
        ("nvfp4", 16 * 48 / 2 + 48 * 1),
    ],
)
def test_bytes_of_four_bits(scheme, count):
    """A linear layer of 48 rows of 16: groups of 16 are rows. nvfp4 has FP8 scales."""
    before, after = made(f"insert-fake-quant{{scheme='{scheme}'}}, finalize-quant", Transformer, normal(2, 5, 16))
    qkv = summarize(before, after, [(normal(2, 5, 16),)]).layers[0]
    assert (qkv.name, qkv.weight_bits, qkv.bytes, qkv.float_bytes) == ("qkv", 4, count, 4 * 16 * 48)


def test_saturation_is_the_share_of_numbers_outside_the_range():
    before, after = made()
    x = 2 * images()
    low, high = float(images().min()), float(images().max())
    (stem, *_) = summarize(before, after, [(x,)]).layers
    step = (high - low) / 255
    assert stem.saturated == pytest.approx(
        float(((x < low) | (x > high)).float().mean()), abs=float(((x > high - step) & (x < high + step)).float().mean()) + 0.01
    )
    assert summarize(before, after, [(images(),)]).layers[0].saturated <= 1 / images().numel()


def test_noise_is_that_of_the_layers_output_with_all_before_it_quantized():
    before, after = made()
    fc = summarize(before, after, [(images(),)]).layers[-1]
    (linear,) = after.calls(torch.ops.aten.linear.default)
    out = after.graph.output_node()
    out.args = ((linear,),)
    after.recompile()
    assert fc.sqnr_db == pytest.approx(sqnr(before(images())[0], after(images())[0]), abs=0.01)


def test_products_of_activations_count_as_floating_point_where_they_are():
    before, after = made(kind=Transformer, x=normal(2, 5, 16))
    summary = summarize(before, after, [(normal(2, 5, 16),)])
    by_name = {n.name: n for n in summary.layers}
    assert by_name["qkv"].activation_bits == 8 and 0.9 < summary.integer_share < 1.0
    assert sum(n.activation_bits is None for n in summary.layers) == 1
