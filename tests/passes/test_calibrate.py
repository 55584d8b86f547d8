"""calibrate: ranges are those of the data, and data that cannot be used is named."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgecc.errors import UsageError
from edgecc.passes.calibrate import Calibrate
from edgecc.pipeline.context import PassContext
from edgecc.quantization import fake_quant
from edgecc.testing import trace_function
from tests.quantization.nets import Residual, images, run, traced

MIN_MAX = "insert-fake-quant, calibrate{method='min-max'}"


def test_the_range_is_that_of_all_samples():
    program = traced(Residual, images())
    first, second = images(), 3 * images(seed=5)
    run(program, MIN_MAX, (first,), (second,))
    x = torch.cat([first, second])
    scale = float(program.weight(fake_quant.activations(program)[0].scale))
    assert scale == pytest.approx(float(x.max() - x.min()) / 255)


def test_the_order_of_samples_does_not_matter():
    results = []
    for order in (1, -1):
        program = traced(Residual, images())
        run(program, "insert-fake-quant, calibrate", *[(images(seed=k),) for k in range(4)][::order])
        results.append([float(program.weight(a.scale)) for a in fake_quant.activations(program)])
    assert results[0] == results[1]


def test_values_are_watched_in_floating_point():
    """The range of a later layer does not depend on the provisional ranges before it."""
    program = traced(Residual, images())
    run(program, "insert-fake-quant{scheme='w16a8'}")
    for found in fake_quant.activations(program):
        program.set_weight(found.scale, torch.tensor([-1e3]))
    run(program, "calibrate{method='min-max'}", (images(),))
    last = float(program.weight(fake_quant.activations(program)[-1].scale))
    want = traced(Residual, images())(images())[0]
    assert last == pytest.approx(float(want.max() - want.min()) / 255, rel=1e-5)


def test_an_empty_set_is_refused():
    program = traced(Residual, images())
    run(program, "insert-fake-quant")
    with pytest.raises(UsageError, match="the calibration set is empty"):
        Calibrate().run(program, PassContext(calibration=[]))


@pytest.mark.parametrize(("value", "kind"), [(float("nan"), "NaN"), (float("inf"), "infinite numbers")])
def test_a_layer_that_is_not_finite_is_named(value, kind):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            return self.fc(x * value)

    program = trace_function(Net(), torch.ones(2, 4))
    with pytest.raises(UsageError, match=rf"%mul \(.*test_calibrate.py:\d+\) has {kind}"):
        run(program, "insert-fake-quant, calibrate", (torch.ones(2, 4),))


def test_a_mask_is_taken_out_again():
    """A mask that was added to what a layer reads: a scale for -1e9 would leave nothing of the rest."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x, mask):
            return self.b(self.a(x) + mask)

    torch.manual_seed(0)
    mask = torch.tensor([0.0, 0.0, 0.0, -1e9])
    program = trace_function(Net(), torch.ones(2, 4), mask)
    context = run(program, "insert-fake-quant, calibrate, finalize-quant", (torch.ones(2, 4), mask))
    assert any("is what masks hold" in r.message for r in context.remarks)
    scales = [n.args[1] for n in program.calls(torch.ops.quantized_decomposed.quantize_per_tensor.default)]
    assert scales and max(scales) < 1.0


def test_seeded_inputs_are_no_data_and_that_is_said():
    context = run(traced(Residual, images()), "insert-fake-quant, calibrate")
    assert any(r.message.startswith("no calibration data") for r in context.remarks)
    context = run(traced(Residual, images()), "insert-fake-quant, calibrate", (images(),))
    assert not any(r.message.startswith("no calibration data") for r in context.remarks)


def test_the_seen_range_is_what_saturates():
    program = traced(Residual, images())
    run(program, MIN_MAX, (images(),))
    (stem, *_) = fake_quant.activations(program)
    beyond = 10 * images()
    low, high = images().min(), images().max()
    got = stem.node.target(beyond, program.weight(stem.scale), program.weight(stem.zero_point), *stem.limits)
    step = float(high - low) / 255
    assert float(got.max()) == pytest.approx(float(high), abs=step) and float(got.min()) == pytest.approx(float(low), abs=step)


@pytest.mark.parametrize(("options", "message"), [("method='kl'", "unknown calibration method"), ("percentile=3.0", "want more than 50")])
def test_bad_options_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        run(traced(Residual, images()), f"insert-fake-quant, calibrate{{{options}}}", (images(),))
